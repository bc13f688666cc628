"""`phalanx tune` as a user runs it, on simulated ranks; and candidates as it has measured them."""

import json
import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from phalanx.ranks_table import NoGatewayError, fetch_ranks
from phalanx.tune.trials import Candidate, Facts, Round, Trial
from tests.service import COMMAND, DEADLINE_S


class Tuning:
    """The command in a folder of its own, for one rank with these engine arguments."""

    def __init__(self, folder: Path, **engine_args: Any) -> None:
        self.folder = folder
        self.tuned = folder / "tuned"
        self._said = folder / "said.txt"
        self._engine = ["--engine", "simulated", "--engine-args", json.dumps(engine_args)]

    @property
    def said(self) -> str:
        """What the last one has printed on stderr."""
        return self._said.read_text()

    def busy_ranks(self) -> list[int]:
        """Process numbers of ranks that have work just now."""
        logs = [path.read_text().splitlines() for path in self.tuned.glob("*.service/gateway.log")]
        listening = [json.loads(line) for lines in logs for line in lines if '"gateway_listening"' in line]
        ranks = []
        for said in listening:
            with suppress(NoGatewayError):
                ranks += fetch_ranks(said["address"]).ranks
        return [rank["pid"] for rank in ranks if rank["running"]]

    def start(
        self,
        *flags: str,
        service: tuple[str, ...] = (),
        log: Path | None = None,
        after: str = "",
        operators: Mapping[str, str] = {},
    ) -> subprocess.Popen[str]:
        """With a result as JSON; after something that a shell does first; with the operator's variables."""
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PHALANX_")}
        variables |= operators
        command = [COMMAND, "tune", "any/model", "--dp-size", "1", "--tuned-dir", str(self.tuned), "--json"]
        command += ["--output-tokens", "4", *flags, "--", *self._engine, *service]
        if after:
            command = ["/bin/sh", "-c", f'{after}; exec "$@"', "sh", *command]
        with (log or self._said).open("w") as said:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )

    def refused(self, *flags: str, after: str = "") -> tuple[int, str]:
        """Beside another one, or after something that a shell did: its exit code, and what it says."""
        log = self.folder / "refused.txt"
        process = self.start(*flags, log=log, after=after)
        process.communicate(timeout=DEADLINE_S)
        return process.returncode, log.read_text()

    def finish(self, *flags: str, service: tuple[str, ...] = (), operators: Mapping[str, str] = {}) -> dict[str, Any]:
        """Until it has done what it can. Its result."""
        process = self.start(*flags, service=service, operators=operators)
        out, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, self.said
        found: dict[str, Any] = json.loads(out)
        return found


def trial(candidate: Candidate, *rates: float, took_s: float = 10.0, facts: Facts | None = None) -> Trial:
    """A candidate that had these rounds."""
    return Trial(
        candidate=candidate,
        facts=facts or Facts(ranks=2, group_kind="replicas", sequences=candidate.sequences or 256, step_tokens=4096),
        start_s=[1.0],
        rounds=[Round(seconds=100 / rate, output_tokens=100) for rate in rates],
        tails_s=[0.1],
        took_s=[took_s],
    )


def failed(candidate: Candidate) -> Trial:
    """One that does not start."""
    return Trial(candidate=candidate, took_s=[1.0], failure="out of memory")
