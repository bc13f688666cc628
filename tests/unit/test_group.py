"""What a group concludes from the end of its ranks, and what it waits for before it starts again."""

import asyncio

import pytest
from test_fleet import Bench

from app.ranks.events import LossKind
from app.ranks.first_start import FIRST_STARTS
from engines.host import gpu_memory, ports
from engines.host.gpu_memory import TOLERANCE_BYTES, GpuMemory
from tests.descriptors import no_descriptor_left
from tests.service import DEADLINE_S

GIB = 2**30


# ---------------------------------------------------------------- without ports to meet at


NO_PORTS = "no 11 consecutive ports from 20000 to 32000 are free: stop what listens on them"
AT_ONCE = {"is_moe": True, "restart_backoff_s": 0.001}


def test_a_service_whose_group_never_found_ports_ends_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_is_free", lambda _: False)

    async def scenario() -> None:
        bench = Bench(**AT_ONCE)
        running = asyncio.create_task(bench.fleet.groups[0].run())
        error = await bench.fleet.fatal
        assert (str(error), error.exit_code) == (
            f"rank 0 could not start: {NO_PORTS}\n  its log is {bench.rank(0).log.path}",
            1,
        )
        assert bench.rank(0).last_error == NO_PORTS
        await bench.fleet.stop()
        await running

    asyncio.run(scenario())


def test_a_group_that_has_served_waits_for_ports_to_come_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_is_free", lambda _: False)

    async def scenario() -> None:
        bench = Bench(**AT_ONCE)
        group = bench.fleet.groups[0]
        group.was_ever_ready = True
        running = asyncio.create_task(group.run())
        async with asyncio.timeout(DEADLINE_S):
            while group.restarts[LossKind.CANNOT_START] <= FIRST_STARTS:  # noqa: ASYNC110  nobody tells
                await asyncio.sleep(0)
        assert not bench.fleet.fatal.done()
        assert not running.done()
        await bench.fleet.stop()
        await running

    asyncio.run(scenario())


def test_a_group_for_which_no_file_descriptor_is_left_failed_to_start_and_goes_on() -> None:
    async def run() -> None:
        bench = Bench(dp_size=1)
        group = bench.fleet.groups[0]
        with no_descriptor_left():
            living = asyncio.create_task(group.run())
            async with asyncio.timeout(DEADLINE_S):
                while not bench.heard and not living.done():  # noqa: ASYNC110  nobody tells
                    await asyncio.sleep(0.01)
        assert bench.heard[0] == ("cannot_start", 0)
        assert "Too many open files" in str(bench.rank(0).last_error)
        assert not living.done()
        await bench.fleet.stop()
        await living

    asyncio.run(run())


# ---------------------------------------------------------------- the memory of its GPUs


class Gpus:
    """What NVML would say, look after look; the last word stays."""

    def __init__(self, *used_gib: float) -> None:
        self.looks = [int(used * GIB) for used in used_gib]

    def used_bytes(self, gpus: list[str]) -> list[int]:
        used = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        return [used for _ in gpus]


def wait(monkeypatch: pytest.MonkeyPatch, gpus: Gpus, timeout_s: float = 5.0) -> None:
    monkeypatch.setattr(gpu_memory, "used_bytes", gpus.used_bytes)
    monkeypatch.setattr(gpu_memory, "POLL_S", 0.0)
    monkeypatch.setattr(gpu_memory, "TIMEOUT_S", timeout_s)

    async def scenario() -> None:
        memory = GpuMemory(["0", "1"])
        await memory.take_baseline()
        await memory.wait_free()

    asyncio.run(scenario())


def test_a_restart_waits_until_a_dead_ranks_memory_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = Gpus(1, 70, 70, 30, 1.2, 99)
    wait(monkeypatch, gpus)
    assert gpus.looks == [99 * GIB], "it looked until no more was in use than before"


def test_memory_that_somebody_else_took_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    wait(monkeypatch, Gpus(0, 70), timeout_s=0.05)


def test_a_little_more_than_before_is_free_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = Gpus(1, 1 + TOLERANCE_BYTES / GIB, 99)
    wait(monkeypatch, gpus)
    assert gpus.looks == [99 * GIB]


def test_without_gpus_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_memory, "used_bytes", pytest.fail)

    async def scenario() -> None:
        memory = GpuMemory([])
        await memory.take_baseline()
        await memory.wait_free()

    asyncio.run(scenario())
