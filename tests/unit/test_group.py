"""What a group concludes from the end of its ranks, and what it waits for before it starts again."""

import asyncio
from pathlib import Path

import pytest
from test_fleet import Bench, play

from app.ranks import gpu_memory
from app.ranks.events import Loss, LossKind
from app.ranks.gpu_memory import TOLERANCE_BYTES, GpuMemory
from app.ranks.runtime import Runtime
from tests.descriptors import no_descriptor_left
from tests.service import DEADLINE_S

GIB = 2**30


def cannot_start(bench: Bench, log: Path, text: str) -> LossKind:
    """How a group that did not come up is judged after its ranks have printed this."""
    group = bench.fleet.groups[0]
    for rank in group.ranks:
        rank.begin(1, log)
    log.write_text(text)
    return group._reclassified(Loss(LossKind.CANNOT_START, "exit code 1", 0)).kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("RuntimeError: The server socket has failed to bind. EADDRINUSE", LossKind.PORT_CLASH),
        ("OSError: [Errno 98] Address already in use", LossKind.PORT_CLASH),
        ("CUDA out of memory", LossKind.CANNOT_START),
        ("", LossKind.CANNOT_START),
    ],
)
def test_a_start_that_failed_for_a_taken_port_is_told_apart(text: str, kind: LossKind, tmp_path: Path) -> None:
    found: list[LossKind] = []
    play(lambda bench: found.append(cannot_start(bench, tmp_path / "rank-0.log", text)), is_moe=True)
    assert found == [kind]


def test_a_port_in_the_log_of_a_group_that_served_is_no_clash(tmp_path: Path) -> None:
    def scenario(bench: Bench) -> None:
        loss = Loss(LossKind.DIED, "it choked", 0)
        assert bench.fleet.groups[0]._reclassified(loss) is loss

    play(scenario)


def test_a_group_for_which_no_file_descriptor_is_left_failed_to_start_and_goes_on() -> None:
    async def run() -> None:
        bench = Bench(dp_size=1)
        bench.fleet._runtime = Runtime()
        bench.fleet._make_groups(bench.fleet.plan, bench.fleet._runtime)
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
    monkeypatch.setattr(gpu_memory, "_used_bytes", gpus.used_bytes)
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
    monkeypatch.setattr(gpu_memory, "_used_bytes", pytest.fail)

    async def scenario() -> None:
        memory = GpuMemory([])
        await memory.take_baseline()
        await memory.wait_free()

    asyncio.run(scenario())
