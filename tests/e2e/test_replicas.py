"""A dense model: independent replicas, and tensor parallelism inside one rank. Real vLLM through HTTP."""

from pathlib import Path

import pytest

from tests.e2e.conftest import as_items, mixed_prompts
from tests.service import serving

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
GREEDY = {"temperature": 0.0, "max_tokens": 12}


@pytest.mark.parametrize(("dp_size", "tp_size"), [(2, 1), (1, 2)])
def test_replicas_and_tensor_parallel_workers_say_what_one_engine_alone_says(
    dp_size: int, tp_size: int, dense_model: Path, dense_reference: list[str]
) -> None:
    flags = [str(dense_model), "--tp-size", str(tp_size), "--enforce-eager"]
    with serving(*flags, engine="vllm", dp_size=dp_size) as service:
        answer = service.batch(as_items(mixed_prompts()), sampling_params=GREEDY)
        ranks = service.ranks()
    assert [result["outputs"][0]["text"] for result in answer["results"]] == dense_reference
    assert [rank["group"] for rank in ranks] == list(range(dp_size))
    assert all(rank["group_kind"] == "replicas" for rank in ranks)
    workers = [title for rank in ranks for title in rank["processes"] if "Worker" in title]
    assert len(workers) == dp_size * tp_size
