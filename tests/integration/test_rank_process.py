"""A guardian as its gateway sees it: started, let go of, and killed if need be."""

import asyncio
import os
import sys
from collections.abc import Awaitable
from pathlib import Path

import psutil
import pytest
from guarded import DEADLINE_S, make_spec

from engines.host import rank_process as processes
from engines.host.rank_process import RankProcess
from tests.service import until

# Guardians that are played: one does what it is told, one does not.
OBEDIENT = "import sys; sys.exit(5 if sys.stdin.read() == '.' else 6)"
DEAF = "import time; time.sleep(600)"


async def started(code: str) -> RankProcess:
    end, lifeline = os.pipe()
    guardian = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdin=end)
    os.close(end)
    return RankProcess(guardian, lifeline)


def play(scenario: Awaitable[None]) -> None:
    async def run() -> None:
        await asyncio.wait_for(scenario, DEADLINE_S)

    before = descriptors()
    asyncio.run(run())
    assert descriptors() == before


def descriptors() -> int:
    return psutil.Process().num_fds()


def test_a_guardian_that_is_let_go_of_hears_a_farewell() -> None:
    async def scenario() -> None:
        process = await started(OBEDIENT)
        process.cut()
        process.cut()
        assert await process.wait() == 5
        await process.end()

    play(scenario())


def test_a_guardian_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GUARDIAN_GRACE_S", 0.2)

    async def scenario() -> None:
        process = await started(DEAF)
        await process.end()
        assert await process.wait() == -9

    play(scenario())


def test_a_guardian_that_was_only_let_go_of_is_killed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that was lost waits for its end, and would wait for ever for one that is stopped."""
    monkeypatch.setattr(processes, "GUARDIAN_GRACE_S", 0.2)

    async def scenario() -> None:
        process = await started(DEAF)
        process.cut()
        assert await process.wait() == -9

    play(scenario())


def test_letting_go_of_a_guardian_that_has_ended_is_no_error() -> None:
    async def scenario() -> None:
        process = await started("")
        await process._guardian.wait()
        process.cut()
        assert await process.wait() == 0

    play(scenario())


def test_a_guardian_that_cannot_be_started_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runtime").mkdir()
    monkeypatch.setattr(sys, "executable", "/no/such/python")

    async def scenario() -> None:
        with pytest.raises(FileNotFoundError):
            await RankProcess.start(make_spec(tmp_path), {})

    play(scenario())


def test_a_rank_starts_and_ends_below_its_guardian(tmp_path: Path) -> None:
    (tmp_path / "runtime").mkdir()
    spec = make_spec(tmp_path)

    async def scenario() -> None:
        process = await RankProcess.start(spec, os.environ)
        guardian = psutil.Process(process.guardian_pid)
        await asyncio.to_thread(until, guardian.children, "the rank does not run")
        await process.end()
        assert await process.wait() == 128 + 9

    play(scenario())
    assert not Path(spec.directory).exists()


def test_what_else_the_gateway_starts_does_not_hold_a_lifeline() -> None:
    """A child that inherited the write end would keep a rank alive behind a dead gateway."""

    async def scenario() -> None:
        process = await started(OBEDIENT)
        other = await asyncio.create_subprocess_exec(sys.executable, "-c", DEAF, close_fds=False)
        process.cut()
        assert await process.wait() == 5
        other.kill()
        await other.wait()

    play(scenario())
