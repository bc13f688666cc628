"""Orphans of ranks are ended, and what else runs below the gateway is left alone."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.ranks import strays
from app.ranks.plan import RANK_FOLDER_VARIABLE
from engines.host.shared_memory import SharedMemory
from tests.descriptors import no_descriptor_left
from tests.service import until

SLEEP = "import time; print('up', flush=True); time.sleep(60)"
WITH_A_TITLE = "import setproctitle; setproctitle.setproctitle('VLLM::Worker'); " + SLEEP  # writes over its environment


@pytest.fixture
def children(tmp_path: Path) -> Iterator[dict[str, "subprocess.Popen[bytes]"]]:
    of_a_rank = {**os.environ, RANK_FOLDER_VARIABLE: f"{tmp_path}/0.1"}
    of_another_gateway = {**os.environ, RANK_FOLDER_VARIABLE: "/tmp/phalanx-other/0.1"}
    with ExitStack() as started:

        def start(program: str, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
            process = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE)
            started.callback(lambda: (process.kill(), process.wait(), process.stdout and process.stdout.close()))
            assert process.stdout is not None and process.stdout.readline() == b"up\n"
            return process

        yield {
            "of a rank": start(SLEEP, of_a_rank),
            "with a title": start(WITH_A_TITLE, of_a_rank),
            "of a container": start(SLEEP, dict(os.environ)),
            "of another gateway": start(SLEEP, of_another_gateway),
            "own": start(SLEEP, of_a_rank),
        }


def test_only_orphans_of_ranks_are_ended(
    children: dict[str, "subprocess.Popen[bytes]"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strays, "GRACE_S", 0.0)
    asyncio.run(strays.clear_strays({children["own"].pid}, tmp_path, SharedMemory()))
    until(lambda: children["of a rank"].poll() is not None, "an orphan of a rank lives", 5)
    until(lambda: children["with a title"].poll() is not None, "an orphan with a title lives", 5)
    for name in ("of a container", "of another gateway", "own"):
        assert children[name].poll() is None, name


def test_without_a_file_descriptor_nobody_is_mistaken_for_an_orphan(
    children: dict[str, "subprocess.Popen[bytes]"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are looked for until it is known who they are, and not for ever."""
    monkeypatch.setattr(strays, "GRACE_S", 0.0)
    monkeypatch.setattr(strays, "MOST_PATIENCE_S", 0.2)
    before = SharedMemory()
    with no_descriptor_left():
        strays._clear({children["own"].pid}, tmp_path, before)
    assert {child.poll() for child in children.values()} == {None}
