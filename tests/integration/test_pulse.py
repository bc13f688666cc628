"""What the kernel says of a rank's processes, on real ones."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest
from msgspec.structs import replace as with_fields

from app.ranks import pulse
from app.ranks.pulse import PulseTaker
from app.ranks.rank import Rank
from app.ranks.stalls import STOPPED_S, Pulse, find_stall
from app.ranks.watch import StallWatch
from engines.contract.protocol import RankFacts, Status
from engines.host.pulse import PulseReader
from tests.descriptors import no_descriptor_left
from tests.service import until

HERE = SimpleNamespace(pulse_reader=PulseReader, is_heard=True)  # the part of a host that is looked at
FACTS = RankFacts(
    engine="played",
    model="played",
    is_moe=True,
    expert_parallel=True,
    data_parallel_size=2,
    tensor_parallel_size=1,
    max_model_len=100,
    max_num_seqs=4,
    kv_cache_tokens=0,
    vocab_size=100,
    dtype="none",
    device="cpu",
)
SLEEPER = "import time; print(flush=True); time.sleep(600)"
RANK = """
import subprocess, sys
compiler = subprocess.Popen([sys.executable, "-c", "while True: pass"])
print(flush=True)
sys.stdin.readline()
compiler.kill()
compiler.wait()
print(flush=True)
sys.stdin.readline()
"""  # there is a compiler below it, until a line comes


@contextmanager
def python(script: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own that runs `script`, which writes a line and then waits."""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            await_sleep(process)
            yield process
        finally:
            for below in psutil.Process(process.pid).children():
                below.kill()
            process.kill()


def await_sleep(process: subprocess.Popen[bytes]) -> None:
    """Until it has written its line and waits, so that it uses no more CPU time."""
    assert process.stdout is not None and process.stdout.readline()
    until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_SLEEPING, "it sleeps")


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGSTOP)
    until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, "it is stopped")


@pytest.fixture
def core() -> Iterator[subprocess.Popen[bytes]]:
    """An engine's process that sleeps."""
    with python(SLEEPER) as process:
        yield process


def rank_of(number: int, process: subprocess.Popen[bytes]) -> Rank:
    rank = Rank(number, group=0)
    rank.facts = with_fields(FACTS, processes={f"core {number}": process.pid})
    return rank


def test_a_stopped_process_is_seen_though_its_rank_holds_nothing(
    core: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a lock-step group it holds up those that do."""
    monkeypatch.setattr(pulse, "LOOK_CLOSER_S", 0.0)
    idle, busy = PulseTaker(rank_of(0, core), PulseReader()), PulseTaker(Rank(1, group=0), PulseReader())
    stop(core)
    for taker, held in ((idle, 0), (busy, 1)):
        taker.take(held, group_works=True)
    time.sleep(0.05)
    pulses = [idle.take(0, group_works=True), busy.take(1, group_works=True)]
    assert pulses[0].stopped == "core 0"
    late = [replace(one, progress_age_s=STOPPED_S + 1) for one in pulses]
    found = find_stall(late, 60.0, 1.0)
    assert found is not None and "core 0 was stopped" in found.reason


def test_a_rank_that_nobody_waits_for_is_not_looked_at(
    core: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse, "LOOK_CLOSER_S", 0.0)
    stop(core)
    rank = rank_of(0, core)
    rank.heard_at = time.monotonic() + 60  # it speaks
    taker = PulseTaker(rank, PulseReader())
    time.sleep(0.05)
    assert taker.take(0, group_works=False).stopped is None
    rank.heard_at = time.monotonic()
    time.sleep(0.05)
    assert taker.take(0, group_works=False).stopped == "core 0"


def takes(taker: PulseTaker, **status: int) -> Pulse:
    """A pulse after a heartbeat, of a rank that holds an item."""
    taker.rank.heard()
    taker.rank.status = Status(incarnation=0, **status)
    return taker.take(1, group_works=True)


def test_a_rank_whose_engine_has_nothing_yet_is_not_asleep(
    core: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It renders a prompt, or waits for its turn to have a structure compiled."""
    monkeypatch.setattr(pulse, "LOOK_CLOSER_S", 0.0)
    taker = PulseTaker(rank_of(0, core), PulseReader())
    for given in (0, 1):
        takes(taker, given=given)
        time.sleep(0.05)
        assert takes(taker, given=given).is_asleep is (given > 0)


def test_a_compiler_below_the_engine_keeps_it_awake(
    core: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse, "LOOK_CLOSER_S", 0.0)
    rank = rank_of(0, core)
    with python(RANK) as process:
        rank.pid = process.pid
        taker = PulseTaker(rank, PulseReader())
        takes(taker, given=1)
        until(lambda: not takes(taker, given=1).is_asleep, "its CPU time counts")
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        await_sleep(process)
        taker = PulseTaker(rank, PulseReader())
        takes(taker, given=1)
        time.sleep(0.05)
        assert takes(taker, given=1).is_asleep


def test_preparing_is_getting_on_while_the_engine_has_nothing(core: subprocess.Popen[bytes]) -> None:
    taker = PulseTaker(rank_of(0, core), PulseReader())
    takes(taker)
    time.sleep(0.05)
    assert takes(taker, prepared=1).progress_age_s == 0
    takes(taker, given=1, prepared=2)
    time.sleep(0.05)
    assert takes(taker, given=1, prepared=3).progress_age_s > 0.04  # checks of parameters do not hide a stall


# ---------------------------------------------------------------- a look that fails


def test_without_a_file_descriptor_a_stall_is_found_by_its_time(
    core: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse, "LOOK_CLOSER_S", 0.0)
    rank = rank_of(0, core)
    rank.pid = core.pid
    watch = StallWatch([rank], lambda _: HERE, lambda _: 1, stall_timeout_s=0.4)
    for _ in range(2):
        time.sleep(0.01)
        assert watch.look() is None
    time.sleep(0.4)
    with no_descriptor_left():
        stall = watch.look()
    assert stall is not None and "it holds work and has made no step" in stall.reason


def test_what_cannot_be_read_is_not_taken_for_sleep(
    core: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse, "LOOK_CLOSER_S", 0.0)
    taker = PulseTaker(rank_of(0, core), PulseReader())
    with no_descriptor_left():
        for _ in range(3):
            assert not takes(taker, given=1).is_asleep
            time.sleep(0.05)
    takes(taker, given=1)
    time.sleep(0.05)
    assert takes(taker, given=1).is_asleep


def test_a_group_with_a_node_that_is_silent_is_not_judged(core: subprocess.Popen[bytes]) -> None:
    there = SimpleNamespace(pulse_reader=PulseReader, is_heard=False)
    ranks = [rank_of(number, core) for number in (0, 1)]
    watch = StallWatch(ranks, lambda number: there if number else HERE, lambda _: 1, stall_timeout_s=0.1)
    for _ in range(2):
        assert watch.look() is None
        time.sleep(0.11)
    there.is_heard = True
    assert watch.look() is None
    time.sleep(0.11)
    assert watch.look() is not None


def test_a_look_that_fails_is_not_the_last(core: subprocess.Popen[bytes]) -> None:
    held = {0: 1}
    watch = StallWatch([rank_of(0, core)], lambda _: HERE, lambda number: held[number], stall_timeout_s=0.1)
    assert watch.look() is None
    del held[0]
    assert watch.look() is None
    held[0] = 1
    time.sleep(0.11)
    assert watch.look() is not None
