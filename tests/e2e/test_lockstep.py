"""A mixture of experts on two lock-step ranks with expert parallelism: real vLLM through HTTP."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import Reference, as_items, mixed_prompts
from tests.service import DEADLINE_S, Service, serving, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
GREEDY = {"temperature": 0.0, "max_tokens": 12}
SEED_PROMPTS = [
    "Hello, my name is",
    "The president of the United States is",
    "The capital of France is",
    "The future of AI is",
]


@pytest.fixture(scope="module")
def service(moe_reference: Reference, moe_model: Path) -> Iterator[Service]:
    """Two ranks, expert-parallel. The reference works meanwhile."""
    with serving(str(moe_model), engine="vllm") as running:
        yield running


def texts(answer: dict[str, Any]) -> list[str]:
    return [result["outputs"][0]["text"] for result in answer["results"]]


def test_two_expert_parallel_ranks_say_what_one_engine_alone_says(service: Service, moe_reference: Reference) -> None:
    prompts = mixed_prompts()
    answer = service.batch(as_items(prompts), sampling_params=GREEDY)
    assert answer["request_counts"]["ok"] == len(prompts)
    assert texts(answer) == moe_reference.texts()
    assert [result["index"] for result in answer["results"]] == list(range(len(prompts)))


def test_the_ranks_say_that_they_are_one_lockstep_group(service: Service) -> None:
    ranks = service.ranks()
    assert [rank["group"] for rank in ranks] == [0, 0]
    assert all(rank["group_kind"] == "lockstep" and rank["expert_parallel"] for rank in ranks)
    watched = " ".join(" ".join(rank["processes"]) for rank in ranks)
    for title in ("VLLM::EngineCore", "VLLM::Worker", "VLLM::DPCoordinator"):
        assert title in watched


def test_the_seeds_workload_is_spread_evenly(service: Service) -> None:
    prompts = [
        {"prompt": prompt, "sampling_params": {"max_tokens": (16, 20)[index % 2]}}
        for index, prompt in enumerate(SEED_PROMPTS * 100)
    ]
    answer = service.batch(prompts, sampling_params={"temperature": 0.8, "top_p": 0.95})
    assert answer["request_counts"]["ok"] == 400
    items = [share["items"] for share in answer["stats"]["ranks"]]
    assert abs(items[0] - items[1]) <= 20


def test_one_prompt_is_enough_for_two_ranks(service: Service, moe_reference: Reference) -> None:
    """The idle rank takes part in every step with a dummy."""
    answer = service.batch(as_items(mixed_prompts())[:1], sampling_params=GREEDY)
    assert answer["request_counts"] == {"total": 1, "ok": 1, "error": 0, "cancelled": 0, "timeout": 0}
    assert texts(answer) == moe_reference.texts()[:1]


def test_a_seeded_batch_is_the_same_whatever_the_order_and_the_rank(service: Service) -> None:
    items = [{"custom_id": f"row-{index}", "prompt": f"Row {index} of many"} for index in range(20)]
    params = {"temperature": 1.0, "seed": 5, "max_tokens": 8}
    forward = service.batch(items, sampling_params=params)
    backward = service.batch(items[::-1], sampling_params=params)
    assert texts(forward) == texts(backward)[::-1]
    assert len(set(texts(forward))) > 10
    another = service.batch(items, sampling_params=params | {"seed": 6})
    assert texts(another) != texts(forward)


def test_metrics_of_both_engines_are_there_once_and_told_apart(service: Service) -> None:
    text = service.client.get("/metrics").text
    heads = [line for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(heads) == len(set(heads))
    for rank in ("0", "1"):
        assert f'vllm:num_requests_running{{engine="{rank}"' in text
    assert 'phalanx_rank_state{rank="0",state="ready"} 1.0' in text


def test_a_client_that_goes_away_frees_its_items_inside_vllm(service: Service) -> None:
    items = [{"prompt": f"Long {index}"} for index in range(1200)]  # more than can be done by the deadline
    with service.begin(items, sampling_params={"max_tokens": 2000, "ignore_eos": True}):
        until(lambda: all(rank["running"] for rank in service.ranks()), "both ranks run sequences")
    until(lambda: not any(rank["held"] or rank["running"] for rank in service.ranks()), "all is given up", 60)


def test_a_timeout_gives_what_is_finished_and_marks_the_rest(service: Service) -> None:
    items = [{"prompt": "Short", "sampling_params": {"max_tokens": 1}}] * 4
    items += [{"prompt": "Long", "sampling_params": {"max_tokens": 2000, "ignore_eos": True}}] * 900
    answer = service.batch(items, timeout_s=10)
    statuses = [result["status"] for result in answer["results"]]
    assert statuses[:4] == ["ok"] * 4
    assert "timeout" in statuses[4:]


def test_a_killed_worker_costs_no_item_and_its_group_comes_back(service: Service) -> None:
    """Its peer would hang in a collective: the whole group is started anew, and its items run again."""
    service.errors_expected = True
    before = [process for process in service.processes() if process.pid != service.process.pid]
    worker = next(process for process in before if "VLLM::Worker" in " ".join(process.cmdline()))
    items = [f"Item {index} of many" for index in range(400)]
    quiet = service.batch(items, sampling_params=GREEDY)
    with service.begin(items, sampling_params=GREEDY) as pending:
        until(lambda: all(rank["held"] for rank in service.ranks()), "both ranks run sequences")
        worker.send_signal(signal.SIGKILL)
        until(lambda: service.health()["status"] == "unavailable", "nobody noticed")
        assert "VLLM::Worker" in service.health()["reason"]
        answer = pending.answer()
    assert answer["request_counts"]["ok"] == 400
    assert texts(answer) == texts(quiet)
    _, alive = psutil.wait_procs(before, timeout=DEADLINE_S)
    assert not alive, "the group's processes are gone"
    until(lambda: service.health()["status"] == "ok", "it does not come back")
    assert {rank["incarnation"] for rank in service.ranks()} == {2}
