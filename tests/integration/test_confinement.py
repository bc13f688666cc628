"""Work in a lane: whatever it does, the lane says what became of it, and the next request is served."""

import asyncio
import ctypes
import os
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest

from engines.vllm_engine.confinement import Answer, Lane, LaneDied, Outcome
from tests.service import until

CPU_S = 0.3
MEMORY_BYTES = 200_000_000
TITLE = f"phalanx-test-lane {os.getpid()}"


def loop() -> NoReturn:
    """Never ends."""
    while True:
        pass


def tenth() -> bytes:
    """Takes a tenth of a second of CPU time."""
    ends = time.process_time() + 0.1
    while time.process_time() < ends:
        pass
    return b"done"


def prepare() -> Callable[[bytes], bytes]:
    """Work that does as it is told, and remembers what it was told to keep."""
    kept: list[bytearray] = []

    def grow() -> NoReturn:
        while True:
            kept.append(bytearray(10_000_000))

    def keep() -> bytes:
        kept.append(bytearray(30_000_000))
        return b"%d" % len(kept)

    def fail() -> NoReturn:
        raise ValueError("no such thing")

    doings: dict[bytes, Callable[[], Any]] = {
        b"loop": loop,
        b"tenth": tenth,
        b"sleep": lambda: time.sleep(100),
        b"grow": grow,
        b"break": lambda: ctypes.string_at(0),
        b"abort": os.abort,
        b"real-time": lambda: signal.raise_signal(signal.SIGRTMIN + 1),  # a number that Python has no name for
        b"leave": lambda: os._exit(0),
        b"raise": fail,
        b"keep": keep,
        b"files": lambda: b",".join(bytes(file) for file in Path("/proc/self/fd").iterdir()),
    }
    return lambda data: doings[data]() if data in doings else data.upper()


def with_lane(
    scenario: Callable[[Lane], Awaitable[None]], prepared: Callable[[], Callable[[bytes], bytes]] = prepare
) -> None:
    """Afterwards nothing of the lane is left."""

    async def run() -> None:
        lane = Lane(TITLE, prepared, MEMORY_BYTES)
        try:
            await asyncio.wait_for(scenario(lane), 240)
        finally:
            lane.close()
            await asyncio.to_thread(os.waitpid, lane.pid, 0)

    asyncio.run(run())
    until(
        lambda: not [process for process in psutil.process_iter() if _title(process) == TITLE], "a process is left", 10
    )


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""


async def fed(lane: Lane, request: bytes, cpu_s: float = CPU_S) -> Answer:
    """The answer once the lane has got CPU time: a busy machine says nothing of the work."""
    while (answer := await lane.ask(request, cpu_s)).outcome is Outcome.STARVED:
        pass
    return answer


@pytest.mark.parametrize(
    ("request_", "outcome"),
    [
        (b"loop", Outcome.TIME),
        (b"sleep", Outcome.STARVED),
        (b"grow", Outcome.MEMORY),
        (b"break", Outcome.CRASHED),
        (b"abort", Outcome.CRASHED),
        (b"real-time", Outcome.CRASHED),
        (b"leave", Outcome.CRASHED),
        (b"raise", Outcome.FAILED),
    ],
)
def test_the_lane_says_what_became_of_it_and_serves_the_next(request_: bytes, outcome: Outcome) -> None:
    async def scenario(lane: Lane) -> None:
        for _ in range(2):
            ask = lane.ask if outcome is Outcome.STARVED else partial(fed, lane)
            answer = await ask(request_, 5 if outcome is Outcome.MEMORY else CPU_S)
            assert answer.outcome is outcome
            assert await fed(lane, b"hello") == Answer(Outcome.DONE, b"HELLO")

    with_lane(scenario)


def test_an_exception_is_told_in_words() -> None:
    async def scenario(lane: Lane) -> None:
        assert (await fed(lane, b"raise")).data == b"ValueError: no such thing"

    with_lane(scenario)


def test_time_is_for_each_request_and_not_for_all() -> None:
    async def scenario(lane: Lane) -> None:
        for _ in range(15):
            assert (await fed(lane, b"tenth", 1.0)).outcome is Outcome.DONE

    with_lane(scenario)


def test_what_earlier_requests_have_left_in_memory_is_nobody_elses_fault() -> None:
    async def scenario(lane: Lane) -> None:
        answers = [await fed(lane, b"keep") for _ in range(15)]
        assert {answer.outcome for answer in answers} == {Outcome.DONE}
        assert max(int(answer.data) for answer in answers) < 10, "a new child has begun from nothing"

    with_lane(scenario)


def test_requests_that_come_at_once_are_served_one_by_one() -> None:
    async def scenario(lane: Lane) -> None:
        async def ask(request: bytes) -> Answer:
            async with lane.turn:
                return await fed(lane, request)

        requests = [b"a", b"loop", b"b", b"break", b"c"]
        answers = await asyncio.gather(*map(ask, requests))
        expected = [Outcome.DONE, Outcome.TIME, Outcome.DONE, Outcome.CRASHED, Outcome.DONE]
        assert [answer.outcome for answer in answers] == expected

    with_lane(scenario)


def test_a_lane_that_cannot_be_prepared_says_why() -> None:
    def hopeless() -> Callable[[bytes], bytes]:
        raise OSError("no tokenizer")

    async def scenario(lane: Lane) -> None:
        for _ in range(2):
            assert await lane.ask(b"a", CPU_S) == Answer(Outcome.FAILED, b"OSError: no tokenizer")

    with_lane(scenario, hopeless)


def test_nothing_of_the_rank_stays_open_where_the_work_is_done() -> None:
    async def scenario(lane: Lane) -> None:
        answer = await lane.ask(b"files", CPU_S)
        assert len(answer.data.split(b",")) <= 5, "standard streams, the channel, and the listing itself"

    with open(os.devnull), open(os.devnull):  # noqa: PTH123  two more that must not be there
        with_lane(scenario)


def test_a_lane_that_is_killed_is_missed() -> None:
    async def scenario(lane: Lane) -> None:
        assert (await lane.ask(b"a", CPU_S)).outcome is Outcome.DONE
        os.kill(lane.pid, signal.SIGKILL)
        with pytest.raises(LaneDied, match=rf"{TITLE} \(pid {lane.pid}\) ended unexpectedly"):
            await lane.ask(b"a", CPU_S)

    with_lane(scenario)


def test_nothing_is_left_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(lane: Lane) -> None:
        await lane.ask(b"abort", CPU_S)

    monkeypatch.chdir(tmp_path)
    with_lane(scenario)
    assert not list(tmp_path.iterdir())
