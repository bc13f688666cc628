"""Who waits for whose structure, with real lanes. What compiles in them is played: it takes as long as it is told."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.vllm_engine import confinement
from engines.vllm_engine.confinement import Lane
from engines.vllm_engine.structure_work import StructureVerdict
from engines.vllm_engine.structures import BUSY, LONGEST_WAIT_S, MOST_SLOW, QUICK_CPU_S, StructureChecker

CPU_S = 0.8


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only CPU time counts here, whoever else needs the cores. Lanes are forked, and inherit it."""
    monkeypatch.setattr(confinement, "WALL_PER_CPU", 60)


def prepare() -> Callable[[bytes], bytes]:
    """A structure is a number of CPU seconds, and more to tell it from others.

    One that is shaky fails at first. One that starts with / waits for that file, and uses next to no CPU time.
    """
    seen: set[bytes] = set()

    def work(structure: bytes) -> bytes:
        if structure.endswith(b"shaky") and structure not in seen:
            seen.add(structure)
            raise OSError("too many open files")
        while structure.startswith(b"/") and not Path(os.fsdecode(structure)).exists():
            time.sleep(0.01)
        until = time.process_time() + (0 if structure.startswith(b"/") else float(structure.split()[0]))
        while time.process_time() < until:
            pass
        return msgspec.msgpack.encode(StructureVerdict(fields={"regex": structure.decode(), "pid": os.getpid()}))

    return work


def with_checker(scenario: Callable[[StructureChecker, list[str]], Awaitable[None]]) -> None:
    async def run() -> None:
        lanes = [Lane(f"phalanx-test-lane {name}", prepare, 200_000_000) for name in ("quick", "slow")]
        deaths: list[str] = []
        checker = StructureChecker(*lanes, CPU_S, deaths.append)
        try:
            await asyncio.wait_for(scenario(checker, deaths), 100)
        finally:
            checker.close()
            for lane in lanes:
                await asyncio.to_thread(os.waitpid, lane.pid, 0)

    asyncio.run(run())


def error_of(verdict: StructureVerdict) -> ItemError:
    assert verdict.error is not None
    return verdict.error


def test_a_structure_is_checked_once_whoever_asks() -> None:
    async def scenario(checker: StructureChecker, _: list[str]) -> None:
        assert checker.known(b"0.05 a") is None
        impatient = asyncio.create_task(checker.check(b"0.05 a"))
        await asyncio.sleep(0)
        impatient.cancel()
        verdicts = await asyncio.gather(*(checker.check(b"0.05 a") for _ in range(100)))
        assert all(verdict is verdicts[0] for verdict in verdicts)
        assert verdicts[0].fields["regex"] == "0.05 a"
        assert checker.known(b"0.05 a") is verdicts[0]

    with_checker(scenario)


def test_one_that_takes_long_is_checked_aside_and_quick_ones_do_not_wait_for_it() -> None:
    async def scenario(checker: StructureChecker, _: list[str]) -> None:
        slow = asyncio.create_task(checker.check(b"%.2f" % (3 * QUICK_CPU_S)))
        endless = asyncio.create_task(checker.check(b"100"))
        quick = [await checker.check(b"0.001 %d" % number) for number in range(50)]
        assert not slow.done() or not endless.done()
        assert {verdict.error for verdict in quick} == {None}
        assert (await slow).error is None
        error = error_of(await endless)
        assert error.code is ItemErrorCode.INVALID_SAMPLING_PARAMS
        assert "more than 0.8 s of CPU time" in error.message

    with_checker(scenario)


def test_many_that_take_long_do_not_fill_the_rank() -> None:
    """Most are told at once to come again, and may: that is no verdict on them. All 300 would take 300 s."""

    async def scenario(checker: StructureChecker, _: list[str]) -> None:
        began = time.monotonic()
        verdicts = await asyncio.gather(*(checker.check(b"100 %d" % number) for number in range(300)))
        took_s = time.monotonic() - began
        busy = [number for number, verdict in enumerate(verdicts) if verdict is BUSY]
        assert 300 - len(busy) <= min(took_s / CPU_S + MOST_SLOW, LONGEST_WAIT_S / QUICK_CPU_S + 1)
        assert error_of(BUSY).code.retryable
        again = error_of(await checker.check(b"100 %d" % busy[0]))
        assert again.code is ItemErrorCode.INVALID_SAMPLING_PARAMS, "there is room now, and it is judged"

    with_checker(scenario)


def test_a_killed_lane_is_the_ranks_death() -> None:
    async def scenario(checker: StructureChecker, deaths: list[str]) -> None:
        assert (await checker.check(b"0")).error is None
        os.kill(checker._quick.pid, 9)
        assert error_of(await checker.check(b"0 again")).code is ItemErrorCode.ENGINE_ERROR
        assert deaths == [f"phalanx-test-lane quick (pid {checker._quick.pid}) ended unexpectedly"]

    with_checker(scenario)


def test_what_could_not_be_checked_is_checked_again() -> None:
    async def scenario(checker: StructureChecker, _: list[str]) -> None:
        error = error_of(await checker.check(b"0.01 shaky"))
        assert (error.code, error.message) == (ItemErrorCode.ENGINE_ERROR, "OSError: too many open files")
        assert checker.known(b"0.01 shaky") is None
        assert (await checker.check(b"0.01 shaky")).error is None

    with_checker(scenario)


def test_one_whose_compiler_got_no_cpu_time_is_told_so_and_is_checked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confinement, "WALL_PER_CPU", 1)
    awaited = tmp_path / "awaited"

    async def scenario(checker: StructureChecker, _: list[str]) -> None:
        structure = os.fsencode(awaited)
        error = error_of(await checker.check(structure))
        assert error.code is ItemErrorCode.ENGINE_ERROR and error.code.retryable
        assert "got no 0.8 s of CPU time" in error.message
        assert checker.known(structure) is None
        awaited.touch()
        assert (await checker.check(structure)).error is None

    with_checker(scenario)
