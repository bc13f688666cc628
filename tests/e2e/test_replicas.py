"""A dense model: independent replicas of two tensor-parallel workers each, traced. Real vLLM through HTTP."""

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.collector import Collector, Seen, collecting
from tests.e2e.conftest import UNCOMPILED, Reference, as_items, mixed_prompts
from tests.service import DEADLINE_S, STAYS_DOWN, Json, Service, serving, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
DP_SIZE, TP_SIZE = 2, 2
TRACED_ITEMS = 2
GREEDY = {"temperature": 0.0, "max_tokens": 12}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """Gets the service's spans."""
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def service(dense_reference: Reference, dense_model: Path, collector: Collector) -> Iterator[Service]:
    """The replicas. The reference works while they start."""
    flags = [
        *(str(dense_model), "--enforce-eager", "--tp-size", str(TP_SIZE), *STAYS_DOWN),
        *("--otlp-traces-endpoint", collector.endpoint, "--trace-items", str(TRACED_ITEMS)),
    ]
    variables = UNCOMPILED | {"OTEL_BSP_SCHEDULE_DELAY": "100"}
    with serving(*flags, engine="vllm", dp_size=DP_SIZE, variables=variables) as running:
        yield running


def texts(answer: Json) -> list[str]:
    return [result["outputs"][0]["text"] for result in answer["results"]]


def test_they_say_what_one_engine_alone_says(service: Service, dense_reference: Reference) -> None:
    answer = service.batch(as_items(mixed_prompts()), sampling_params=GREEDY)
    assert texts(answer) == dense_reference.texts()


def test_each_is_a_group_of_its_own_with_its_workers(service: Service) -> None:
    ranks = service.ranks()
    assert [rank["group"] for rank in ranks] == list(range(DP_SIZE))
    assert all(rank["group_kind"] == "replicas" for rank in ranks)
    for rank in ranks:
        assert len([title for title in rank["processes"] if "Worker" in title]) == TP_SIZE


def test_vllms_span_of_a_request_is_below_the_attempt_and_untraced_items_have_none(
    service: Service, collector: Collector
) -> None:
    trace_id = "5" * 32  # the other batches have spans too
    answer = service.client.post(
        "/v1/batch_generate",
        json={"prompts": ["A canary of a prompt"] * 20, "sampling_params": {"max_tokens": 8, "stop": ["canary"]}},
        headers={"traceparent": f"00-{trace_id}-{'6' * 16}-01"},
    )
    assert answer.json()["request_counts"]["ok"] == 20

    def named(name: str) -> list[Seen]:
        return [span for span in collector.named(name) if span.trace_id == trace_id]

    def are_there() -> bool:
        """Of the gateway, of the rank and of vLLM in it: each sends its own."""
        return bool(named("batch")) and all(len(named(name)) >= TRACED_ITEMS for name in ("generate", "llm_request"))

    until(are_there, "not all spans arrive", 30)
    generate = {span.span_id: span for span in named("generate")}
    llm = named("llm_request")
    assert len(generate) == len(llm) == TRACED_ITEMS
    assert {span.parent_id for span in llm} == set(generate)
    assert {span.resource["phalanx.incarnation"] for span in llm} == {"1"}
    assert "canary" not in str(collector.spans)


def test_a_killed_worker_takes_its_replica_with_it_and_the_other_one_serves_on(
    service: Service, dense_reference: Reference
) -> None:
    """The last one: the replica stays down, for a start takes long. What it takes to come back is in tests/survival."""
    service.errors_expected = True
    below = psutil.Process(service.ranks()[1]["pid"]).children(recursive=True)
    worker = next(process for process in below if "VLLM::Worker" in " ".join(process.cmdline()))
    worker.send_signal(signal.SIGKILL)
    until(lambda: service.health()["status"] == "degraded", "nobody noticed", 15)
    assert "VLLM::Worker" in service.health()["reason"]
    answer = service.batch(as_items(mixed_prompts()), sampling_params=GREEDY)
    assert texts(answer) == dense_reference.texts()
    assert {result["rank"] for result in answer["results"]} == {0}
    _, alive = psutil.wait_procs(below, timeout=DEADLINE_S)
    assert not alive, "the replica's processes are gone"
