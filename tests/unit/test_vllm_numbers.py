"""Numbers on their way to vLLM's workers and back. vLLM's own classes are played."""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from engines.vllm_engine import worker_limits
from engines.vllm_engine.outputs import to_result

VOCAB_SIZE = 1000


def params(**fields: Any) -> Any:
    """Parameters as the engine core gets them."""
    plain = {"logprobs": None, "prompt_logprobs": None, "min_tokens": 0, "bad_words_token_ids": None}
    return SimpleNamespace(**(plain | {"all_stop_token_ids": set()} | fields))


@pytest.mark.parametrize("name", ["logprobs", "prompt_logprobs"])
def test_more_logprobs_than_there_are_tokens_are_refused(name: str) -> None:
    """vLLM lets them pass where --max-logprobs does."""
    worker_limits.check(params(**{name: VOCAB_SIZE}), VOCAB_SIZE)
    worker_limits.check(params(**{name: -1}), VOCAB_SIZE)
    with pytest.raises(worker_limits.WorkerLimit, match=f"{name} is 1001, and the vocabulary has 1000") as refused:
        worker_limits.check(params(**{name: VOCAB_SIZE + 1}), VOCAB_SIZE)
    assert refused.value.parameter == name


def test_stop_tokens_are_counted_with_the_models_own_where_they_are_held_back() -> None:
    worker_limits.check(params(all_stop_token_ids=set(range(500))), VOCAB_SIZE)
    worker_limits.check(params(all_stop_token_ids=set(range(128)), min_tokens=1), VOCAB_SIZE)
    with pytest.raises(worker_limits.WorkerLimit, match="at most 128 are accepted together with min_tokens"):
        worker_limits.check(params(all_stop_token_ids=set(range(129)), min_tokens=1), VOCAB_SIZE)


@pytest.mark.parametrize("logprob", [float("nan"), float("-inf"), -1e308])
def test_a_logprob_that_json_has_no_number_for_is_the_lowest(logprob: float) -> None:
    entry = SimpleNamespace(logprob=logprob, rank=1, decoded_token=None)
    plain = {"index": 0, "text": "a", "token_ids": [5], "finish_reason": "stop", "stop_reason": None}
    output = SimpleNamespace(**plain, logprobs=[{5: entry}])
    final = SimpleNamespace(outputs=[output], prompt_logprobs=None, prompt_token_ids=[1], num_cached_tokens=0)
    (answered,) = msgspec.json.decode(to_result(1, final, return_token_ids=False).outputs)
    assert answered["logprobs"][0]["5"]["logprob"] == -9999.0
