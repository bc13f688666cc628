"""A lock-step group whose workers torchrun has started: two ranks of two workers, one world of four."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import as_items, mixed_prompts
from tests.service import Json, Service, serving, until

pytestmark = pytest.mark.timeout(900)
GREEDY = {"temperature": 0.0, "max_tokens": 12}
WORLD = ("phalanx-rank 0", "phalanx-worker 0.1", "phalanx-rank 1", "phalanx-worker 1.1")


def texts(answer: Json) -> list[str]:
    return [result["outputs"][0]["text"] for result in answer["results"]]


@pytest.fixture(scope="module")
def ordinary(moe_model: Path) -> list[str]:
    """What one rank says that has no other workers."""
    with serving(str(moe_model), engine="vllm", dp_size=1) as alone:
        return texts(alone.batch(as_items(mixed_prompts()), sampling_params=GREEDY))


@pytest.fixture(scope="module")
def service(moe_model: Path, ordinary: list[str]) -> Iterator[Service]:
    """The experts are spread over all four."""
    flags = (str(moe_model), "--executor", "external_launcher", "--tp-size", "2")
    with serving(*flags, engine="vllm", dp_size=2) as running:
        yield running


def test_they_say_what_one_engine_alone_says(service: Service, ordinary: list[str]) -> None:
    answer = service.batch(as_items(mixed_prompts()), sampling_params=GREEDY)
    assert texts(answer) == ordinary
    assert {rank["group_kind"] for rank in service.ranks()} == {"lockstep"}
    assert {result["rank"] for result in answer["results"]} == {0, 1}
    assert all(len(service.titled(title)) == 1 for title in WORLD)
    until(lambda: all(rank["steps"] for rank in service.ranks()), "a rank has made no step")


def test_one_item_runs_while_the_other_rank_has_nothing_to_do(service: Service) -> None:
    assert service.batch(["alone"], sampling_params={"max_tokens": 50})["request_counts"]["ok"] == 1


@pytest.mark.parametrize("victim", WORLD)
def test_a_worker_that_is_killed_costs_no_item_and_no_text(victim: str, service: Service, ordinary: list[str]) -> None:
    service.errors_expected = True
    life = service.ranks()[0]["incarnation"]
    with service.begin(as_items(mixed_prompts()), sampling_params=GREEDY) as pending:
        until(lambda: all(service.held), "not all ranks work")
        (pid,) = service.titled(victim)
        next(process for process in service.processes() if process.pid == pid).send_signal(signal.SIGKILL)
        assert texts(pending.answer()) == ordinary
    service.wait_ready()
    assert {rank["incarnation"] for rank in service.ranks()} == {life + 1}


def test_a_worker_that_is_stopped_is_found_and_its_work_done(service: Service, ordinary: list[str]) -> None:
    service.errors_expected = True
    with service.begin(as_items(mixed_prompts()), sampling_params=GREEDY) as pending:
        until(lambda: all(service.held), "not all ranks work")
        (pid,) = service.titled("phalanx-worker 1.1")
        next(process for process in service.processes() if process.pid == pid).send_signal(signal.SIGSTOP)
        assert texts(pending.answer()) == ordinary
    service.wait_ready()
    assert any("phalanx-worker 1.1" in str(fact.get("reason")) for fact in service.facts("rank_lost"))
