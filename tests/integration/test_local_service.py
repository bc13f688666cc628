"""A service of a command's own: when it is said to be there."""

import json
import os
from pathlib import Path

from phalanx.generate.local import LocalService
from phalanx.ranks_table import fetch_ranks


def test_it_is_there_when_one_rank_takes_items_and_another_never_will(tmp_path: Path) -> None:
    flags = (
        "--engine",
        "simulated",
        "--dp-size",
        "2",
        "--engine-args",
        json.dumps({"start_s": 1, "crash_at_start": [1]}),
    )
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PHALANX_")}
    said: list[str] = []
    with LocalService(tmp_path / "service", "any/model", flags, said.append, said.append, variables) as service:
        states = [rank["state"] for rank in fetch_ranks(service.url).ranks]
    assert states[0] == "ready" != states[1]
