"""kill -9 of every kind of process, in every stage: nothing that belonged to it lives ten seconds later."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.service import Service, starting, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
GONE_S = 10.0
STAYS_DOWN = ("--restart-backoff-s", "1h", "--max-restart-backoff-s", "1h")
TITLES = {
    "gateway": "phalanx-gateway",
    "guardian": "phalanx-guardian 0",
    "rank": "phalanx-rank 0",
    "engine core": "VLLM::EngineCore",
    "coordinator": "VLLM::DPCoordinator",
    "worker": "VLLM::Worker",
}
SHARED_MEMORY = Path("/dev/shm")
IMPORTING, LOADING, SERVING = "importing", "loading", "serving"
# Which processes there are in which stage: the engine's appear while it loads.
CASES = [
    *[(title, stage) for title in ("gateway", "guardian", "rank") for stage in (IMPORTING, LOADING, SERVING)],
    *[(title, stage) for title in ("engine core", "coordinator", "worker") for stage in (LOADING, SERVING)],
]


@pytest.fixture
def service(moe_model: Path) -> Iterator[Service]:
    """Two expert-parallel ranks that have just been spawned. A group that dies stays down."""
    with starting(str(moe_model), *STAYS_DOWN, engine="vllm") as running:
        running.errors_expected = True
        yield running


def titled(service: Service, title: str) -> list[psutil.Process]:
    found = []
    for process in service.processes():
        try:
            found += [process] if title in " ".join(process.cmdline()) else []
        except psutil.NoSuchProcess:
            continue
    return found


def runtime(service: Service) -> list[Path]:
    """Sockets and private folders of ranks."""
    return [path for folder in service.folder.glob("phalanx-*") for path in folder.glob("*.*")]


def shared_memory() -> set[Path]:
    """But for that of simulated ranks of whoever else runs here."""
    return {path for path in SHARED_MEMORY.iterdir() if not path.name.startswith("phalanx-")}


@pytest.mark.parametrize(("kind", "stage"), CASES)
def test_nothing_is_left_of_a_group_that_lost_a_process(kind: str, stage: str, service: Service) -> None:
    before = shared_memory()
    if stage == SERVING:
        service.wait_ready()
        assert service.batch(["Hello"], sampling_params={"max_tokens": 2})["request_counts"]["ok"] == 1
    else:
        until(lambda: {rank["stage"] for rank in service.ranks()} == {stage}, f"they are not {stage}")
    victim = until(lambda: titled(service, TITLES[kind]), f"there is no {kind}")[0]
    family = [process for process in service.processes() if process.pid != service.process.pid]
    victim.send_signal(signal.SIGKILL)
    killed_at = time.monotonic()
    _, alive = psutil.wait_procs(family, timeout=GONE_S)
    assert not alive, f"left: {[process.cmdline() for process in alive]}"
    print(f"{kind} while {stage}: gone after {time.monotonic() - killed_at:.1f} s")  # noqa: T201  for the record
    left_s = GONE_S - (time.monotonic() - killed_at)
    until(lambda: not shared_memory() - before, "shared memory is left", max(1.0, left_s))
    until(lambda: not runtime(service), "sockets or folders are left", max(1.0, left_s))
    if kind != "gateway":
        assert service.health()["status"] == "unavailable"
        assert service.process.poll() is None
