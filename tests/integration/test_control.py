"""A rank's control thread, in a process of its own: it speaks while the rank is busy, and ends with the rank."""

import os
import signal
from contextlib import AbstractContextManager
from pathlib import Path

from guarded import FAMILY, guarded
from played import Played, play

from engines.contract.protocol import (
    Abort,
    Check,
    Checked,
    Failed,
    FailureKind,
    Ready,
    Run,
    Scrape,
    Status,
    Stop,
    Stopped,
)
from tests.service import until

# What the rank does is put where MAIN stands. Its main thread then sleeps, as in loading.
RANK = """
import os, subprocess, sys, time
from pathlib import Path
from engines import logs
from engines.host import processes
from engines.rank.engine import EngineDied
from engines.rank.control import ControlChannel
from engines.contract.protocol import *
from engines.contract.spec import read_spec

def on_message(message):
    match message:
        case Stop():
            control.send(Stopped(incarnation=1))
            control.exit(0)
        case Abort():
            raise RuntimeError("no such attempt")
        case Check():
            control.send(Checked(incarnation=1, check=message.check, error=None))

processes.become_subreaper()
spec = read_spec(Path("runtime/0.1/rank.json"))
logs.configure_rank(spec)
control = ControlChannel(spec, on_message)
control.start()
MAIN
time.sleep(600)
"""


# The real rank, with an engine that trips.
TRIPPING = """
import os, sys
from engines.rank import serve
from engines.simulated.engine import SimulatedEngine

class Tripping(SimulatedEngine):
    def submit(self, run):
        raise RuntimeError("tripped over its feet")

    def metrics(self):
        raise RuntimeError("has no metrics today")

serve.make_engine = lambda spec, emit, died, launch: Tripping(spec, emit, died)
sys.exit(serve.main("runtime/0.1/rank.json", os.environ))
"""


def played(folder: Path, main: str = "", code: str = RANK) -> AbstractContextManager[Played]:
    return play(folder, code.replace("MAIN", main))


def test_heartbeats_come_and_questions_are_answered_while_the_main_thread_is_busy(tmp_path: Path) -> None:
    with played(tmp_path) as rank:
        for _ in range(3):
            assert rank.receive(Status) == Status(incarnation=1)
        rank.send(Check(incarnation=1, check=5, params=b""))
        rank.send(Stop(incarnation=1))
        assert rank.receive(Stopped) == Stopped(incarnation=1)
        assert rank.end() == (0, "")


def test_messages_for_another_life_of_the_rank_are_ignored(tmp_path: Path) -> None:
    with played(tmp_path) as rank:
        rank.send(Stop(incarnation=0))
        rank.send(Stop(incarnation=2))
        for _ in range(3):
            rank.receive(Status)
        assert rank.process.poll() is None


def test_the_last_words_are_heard(tmp_path: Path) -> None:
    words = "[control.send(StageReached(incarnation=1, stage=Stage.LOADING)) for _ in range(5000)]\n"
    last = "control.send(Failed(incarnation=1, kind=FailureKind.START, reason='no such luck')); control.exit(3)"
    with played(tmp_path, words + last) as rank:
        assert rank.receive(Failed) == Failed(incarnation=1, kind=FailureKind.START, reason="no such luck")
        assert rank.end() == (3, "")


def test_a_rank_whose_gateway_is_gone_still_ends(tmp_path: Path) -> None:
    """What it had to say is kept for a moment, and not for ever."""
    with guarded(tmp_path, RANK.replace("MAIN", "control.send(Stopped(incarnation=1)); control.exit(3)")) as family:
        assert family.wait() == 3


def test_a_fault_in_the_control_thread_ends_the_rank(tmp_path: Path) -> None:
    """A rank that is deaf and dumb would be worse. The main thread need not even notice."""
    with played(tmp_path) as rank:
        rank.send(Abort(incarnation=1, attempts=[]))
        failed = rank.receive(Failed)
        assert failed.reason.startswith("its control thread failed: RuntimeError (message withheld")
        code, said = rank.end()
    assert code == 1
    assert "control_failed" in said
    assert "RuntimeError (message withheld" in said


def test_what_is_no_message_ends_the_rank_with_a_reason(tmp_path: Path) -> None:
    with played(tmp_path) as rank:
        rank.send(b"\xc1 garbage")
        failed = rank.receive(Failed)
        assert failed.kind is FailureKind.ENGINE
        assert failed.reason.startswith("the gateway sent something that is no message of this protocol")
        assert rank.end()[0] == 1


def test_the_end_of_a_watched_process_is_the_ranks(tmp_path: Path) -> None:
    start = "helper = subprocess.Popen(['sleep', '600']); control.watch({'helper': helper.pid}); "
    with played(tmp_path, start + "print('pid', helper.pid, file=sys.stderr, flush=True)") as rank:
        assert rank.process.stderr is not None
        pid = int(rank.process.stderr.readline().split()[1])
        os.kill(pid, signal.SIGTERM)
        failed = rank.receive(Failed)
        assert failed == Failed(incarnation=1, kind=FailureKind.ENGINE, reason=f"helper (pid {pid}) ended unexpectedly")
        assert rank.end()[0] == 1


def test_a_process_that_ended_before_it_is_watched_is_named(tmp_path: Path) -> None:
    main = (
        "helper = subprocess.Popen(['true']); helper.wait()\n"
        "try: control.watch({'helper': helper.pid})\n"
        "except EngineDied as error: sys.exit(str(error).replace(str(helper.pid), 'N'))"
    )
    with played(tmp_path, main) as rank:
        assert rank.end() == (1, "helper (pid N) ended while the engine started\n")


def test_when_the_guardian_is_killed_the_rank_does_its_work(tmp_path: Path) -> None:
    """Shared memory that only a tracker knows of is freed by that tracker, once the rank has gone."""
    with guarded(tmp_path, RANK.replace("MAIN", FAMILY)) as family:
        family.wait_complete()
        family.guardian.kill()
        until(lambda: not family.leftovers(), "something is left")


def test_an_engine_that_trips_over_items_is_the_ranks_end(tmp_path: Path) -> None:
    """Their results would never come. Over anything else it may trip: only that question has no answer."""
    with played(tmp_path, code=TRIPPING) as rank:
        rank.receive(Ready)
        rank.send(Scrape(incarnation=1, scrape=1))
        rank.send(Check(incarnation=1, check=1, params=b"\x80"))
        assert rank.receive(Checked) == Checked(incarnation=1, check=1, error=None)
        rank.send(Run(incarnation=1, params=[], items=[]))
        failed = rank.receive(Failed)
        assert failed.kind is FailureKind.ENGINE
        assert failed.reason.startswith("RuntimeError (message withheld: --log-prompts shows it) in submit (")
        code, said = rank.end()
        assert code == 1
        assert said.count("message_failed") == 2  # of Scrape and of Run
        assert "feet" not in said.replace(TRIPPING, "")
