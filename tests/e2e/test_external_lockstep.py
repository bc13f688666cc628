"""A lock-step group whose workers torchrun has started: two ranks, one world. Real vLLM through HTTP."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Reference, as_items, mixed_prompts
from tests.service import Service, serving, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def service(moe_reference: Reference, moe_model: Path) -> Iterator[Service]:
    """The experts are spread over both ranks."""
    flags = (str(moe_model), "--executor", "external_launcher")
    with serving(*flags, engine="vllm", dp_size=2) as running:
        yield running


def test_they_say_what_one_engine_alone_says(service: Service, moe_reference: Reference) -> None:
    answer = service.batch(as_items(mixed_prompts()), sampling_params={"temperature": 0.0, "max_tokens": 12})
    assert [result["outputs"][0]["text"] for result in answer["results"]] == moe_reference.texts()
    assert {rank["group_kind"] for rank in service.ranks()} == {"lockstep"}
    until(lambda: all(rank["steps"] for rank in service.ranks()), "a rank has made no step")


def test_one_item_runs_while_the_other_rank_has_nothing_to_do(service: Service) -> None:
    assert service.batch(["alone"], sampling_params={"max_tokens": 50})["request_counts"]["ok"] == 1
