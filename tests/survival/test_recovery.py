"""kill -9 of each kind of process while 2,000 items run on two expert-parallel ranks: all answered, and soon ready."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.service import DEADLINE_S, Json, Service, serving, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
GREEDY = {"temperature": 0.0, "max_tokens": 8}
ITEMS = [f"{index}. The capital of France is" for index in range(2000)]
VICTIMS = {"rank": "phalanx-rank 1", "engine core": "VLLM::EngineCore", "worker": "VLLM::Worker"}
SLACK_S = 5.0
SLACK = 1.15


@pytest.fixture(scope="module")
def service(moe_model: Path) -> Iterator[Service]:
    """Two ranks, expert-parallel. Every kill is a failure, and there are more of them here than on a good day."""
    with serving(str(moe_model), "--breaker-failures", "100", "--restart-backoff-s", "1", engine="vllm") as running:
        running.errors_expected = True
        yield running


@pytest.fixture(scope="module")
def undisturbed(service: Service) -> list[str]:
    """The texts of a run in which nothing happens."""
    return texts(service.batch(ITEMS, sampling_params=GREEDY))


def texts(answer: Json) -> list[str]:
    return [result["outputs"][0]["text"] for result in answer["results"]]


def victim(service: Service, title: str) -> psutil.Process:
    return next(process for process in service.processes() if title in " ".join(process.cmdline()))


def await_ready(service: Service, since: float, cold_start_s: float, what: str) -> None:
    """Ready again within the engine's own start and a little."""
    until(lambda: service.health()["status"] == "ok", "it does not come back")
    took_s = time.monotonic() - since
    limit_s = SLACK * cold_start_s + SLACK_S
    print(f"{what}: ready again after {took_s:.1f} s; a cold start takes {cold_start_s:.1f} s")  # noqa: T201
    assert took_s <= limit_s


@pytest.mark.parametrize("kind", list(VICTIMS))
def test_a_kill_in_the_midst_of_it_costs_no_item_and_no_text(
    kind: str, cold_start_s: float, service: Service, undisturbed: list[str]
) -> None:
    before = [process for process in service.processes() if process.pid != service.process.pid]
    with service.begin(ITEMS, sampling_params=GREEDY) as pending:
        until(lambda: all(rank["held"] for rank in service.ranks()) and service.backlog < 1500, "it does not run")
        victim(service, VICTIMS[kind]).send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
        until(lambda: service.health()["status"] == "unavailable", "nobody noticed", 15)
        await_ready(service, killed_at, cold_start_s, kind)
        answer = pending.answer()
    assert answer["request_counts"]["ok"] == len(ITEMS)
    assert texts(answer) == undisturbed
    assert [result["index"] for result in answer["results"]] == list(range(len(ITEMS)))
    assert {rank["suspects"] for rank in service.ranks()} == {0}
    _, alive = psutil.wait_procs(before, timeout=DEADLINE_S)
    assert not alive, "the group's processes are gone"


def test_an_idle_group_whose_coordinator_is_killed_answers_the_next_batch(
    cold_start_s: float, service: Service, undisturbed: list[str]
) -> None:
    victim(service, "VLLM::DPCoordinator").send_signal(signal.SIGKILL)
    killed_at = time.monotonic()
    until(lambda: service.health()["status"] == "unavailable", "nobody noticed", 15)
    await_ready(service, killed_at, cold_start_s, "coordinator")
    assert texts(service.batch(ITEMS, sampling_params=GREEDY)) == undisturbed


def test_a_frozen_worker_is_found_and_its_work_done(service: Service, undisturbed: list[str]) -> None:
    with service.begin(ITEMS, sampling_params=GREEDY) as pending:
        until(lambda: all(rank["held"] for rank in service.ranks()) and service.backlog < 1500, "it does not run")
        victim(service, "VLLM::Worker").send_signal(signal.SIGSTOP)
        stopped_at = time.monotonic()
        until(lambda: service.health()["status"] == "unavailable", "nobody noticed", 30)
        print(f"a frozen worker: found after {time.monotonic() - stopped_at:.1f} s")  # noqa: T201
        answer = pending.answer()
    assert "was stopped" in " ".join(rank["last_error"] or "" for rank in service.ranks())
    assert answer["request_counts"]["ok"] == len(ITEMS)
    assert texts(answer) == undisturbed
    until(lambda: service.health()["status"] == "ok", "it does not come back")
