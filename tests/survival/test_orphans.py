"""kill -9 of every kind of process, in every stage: nothing that belonged to it lives ten seconds later."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from engines.host.shared_memory import mapped_by
from tests.service import STAYS_DOWN, Service, starting, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
GONE_S = 10.0
TITLES = {
    "gateway": "phalanx-gateway",
    "guardian": "phalanx-guardian 0",
    "rank": "phalanx-rank 0",
    "engine core": "VLLM::EngineCore",
    "coordinator": "VLLM::DPCoordinator",
    "worker": "VLLM::Worker",
}
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


def shared_memory(family: list[psutil.Process]) -> set[Path]:
    """What these have mapped: others may run engines here, too."""
    return {path for process in family for path in mapped_by(process.pid)}


@pytest.mark.parametrize(("kind", "stage"), CASES)
def test_nothing_is_left_of_a_group_that_lost_a_process(kind: str, stage: str, service: Service) -> None:
    if stage == SERVING:
        service.wait_ready()
        assert service.batch(["Hello"], sampling_params={"max_tokens": 2})["request_counts"]["ok"] == 1
    else:
        until(lambda: {rank["stage"] for rank in service.ranks()} == {stage}, f"they are not {stage}")
    victim = until(lambda: titled(service, TITLES[kind]), f"there is no {kind}")[0]
    family = [process for process in service.processes() if process.pid != service.process.pid]
    shared = shared_memory(family)
    assert shared or stage != SERVING, "the engines share memory, or this looks at the wrong place"
    victim.send_signal(signal.SIGKILL)
    killed_at = time.monotonic()
    _, alive = psutil.wait_procs(family, timeout=GONE_S)
    assert not alive, f"left: {alive}"
    print(f"{kind} while {stage}: gone after {time.monotonic() - killed_at:.1f} s")  # noqa: T201  for the record
    left_s = GONE_S - (time.monotonic() - killed_at)
    until(lambda: not any(path.exists() for path in shared), f"left: {shared}", max(1.0, left_s))
    until(lambda: not runtime(service), "sockets or folders are left", max(1.0, left_s))
    if kind != "gateway":
        assert service.health()["status"] == "unavailable"
        assert service.process.poll() is None
