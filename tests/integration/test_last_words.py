"""What a rank says last is heard, however its process ends and however busy the gateway is just then."""

import os
import sys
import time
from asyncio import timeout
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import uvloop

from app.ranks import channel
from app.ranks.agreement import node_facts
from app.ranks.devices import Allotment
from app.ranks.hosts.local import LocalHost
from app.ranks.incarnation import Incarnation
from app.ranks.model import ModelFacts
from app.ranks.plan import make_plan
from app.ranks.rank import Rank
from app.settings.declaration import Settings
from app.settings.folders import socket_folder
from engines.contract.protocol import Failed, FailureKind, FromRank, Hello, StageReached
from engines.contract.spec import Share
from tests.service import DEADLINE_S

# A rank's process ends when it has begun to speak; what it has said is on its way for a while longer, and then the
# connection ends.
LATE = f"""#!{sys.executable}
import os, sys, time
from pathlib import Path
from engines.contract.protocol import *
from engines.contract.spec import read_spec
from engines.rank.control import ControlChannel
begun, begin = os.pipe()
if os.fork() > 0:
    os.read(begun, 1)
    os._exit(2)
silent, speak = os.pipe()
os.dup2(silent, 0)  # a lifeline that nobody lets go of
control = ControlChannel(read_spec(Path(sys.argv[-1])), print)
control.start()
control.send(Hello(incarnation=1, protocol=PROTOCOL_VERSION, rank=0, pid=os.getpid()))
os.write(begin, b".")
time.sleep(0.5)
for _ in range(5000):
    control.send(StageReached(incarnation=1, stage=Stage.LOADING))
control.send(Failed(incarnation=1, kind=FailureKind.CONFIGURATION, reason="no such luck", untouched=[7]))
control.exit(0)
"""


EPOCH = 7


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Incarnation]:
    settings = Settings(engine="simulated", dp_size=1)
    plan = make_plan(settings, ModelFacts("played", is_moe=False), "cpu", 1)
    rank = Rank(0, group=0)
    facts = node_facts(Allotment("cpu", (Share(),)))
    host = LocalHost(os.environ, tmp_path, socket_folder(), facts, EPOCH)
    host.open()
    rank.begin(host.new_log(0), Share())
    yield Incarnation(rank, host, settings, plan, None)
    host.close()


def play(life: Incarnation, on_message: Callable[[FromRank], None] = lambda _: None) -> tuple[int, list[FromRank]]:
    """From its start to its end: its exit code, and what it said."""
    heard: list[FromRank] = []

    def hear(message: FromRank) -> None:
        heard.append(message)
        on_message(message)

    async def run() -> int:
        async with timeout(DEADLINE_S):
            return await life.run(hear, pytest.fail)

    return uvloop.run(run()), heard


def test_what_is_on_its_way_when_the_process_ends_is_heard(
    life: Incarnation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "late"
    program.write_text(LATE)
    program.chmod(0o755)
    monkeypatch.setattr("engines.host.rank_process.sys.executable", str(program))
    monkeypatch.setattr(channel, "LAST_WORDS_S", DEADLINE_S)
    code, heard = play(life)
    assert (code, sum(isinstance(message, StageReached) for message in heard)) == (2, 5000)
    last = heard[-1]
    assert last == Failed(
        incarnation=1, epoch=EPOCH, kind=FailureKind.CONFIGURATION, reason="no such luck", untouched=[7]
    )


def test_a_rank_that_ends_without_a_word_is_not_waited_for(life: Incarnation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection has an end, and that is seen."""
    monkeypatch.setattr(channel, "LAST_WORDS_S", 2 * DEADLINE_S)

    def kill(message: FromRank) -> None:
        if isinstance(message, Hello):
            psutil.Process(message.pid).kill()

    code, _ = play(life, kill)
    assert code == 128 + 9


def test_a_rank_that_never_spoke_is_waited_for_for_a_moment(
    life: Incarnation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.host.rank_process.sys.executable", "/bin/false")
    began = time.monotonic()
    code, heard = play(life)
    assert (code, heard) == (1, [])
    assert time.monotonic() - began < DEADLINE_S / 2
