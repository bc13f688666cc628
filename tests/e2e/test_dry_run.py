"""A dry run on real vLLM: the prompt tokens that a run shows, whatever kind of prompt it is, and the same errors."""

from typing import Any

import pytest

from tests.e2e.conftest import as_items, mixed_prompts
from tests.service import Service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
MESSAGES = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "What is a river?"}]
BEYOND = 10**7  # a token id outside of any vocabulary
PROMPTS: list[Any] = [
    *as_items(mixed_prompts(12)),
    "été, 世界 🙂",
    {"prompt": "a river " * 50, "truncate_prompt_tokens": 5},
    {"prompt": "a river " * 5000, "truncate_prompt_tokens": -1},
    {"messages": MESSAGES, "truncate_prompt_tokens": 3},
    {"messages": MESSAGES, "chat_template_kwargs": {"add_generation_prompt": False}},
    {"prompt": list(range(10, 30)), "truncate_prompt_tokens": 4},
    {"prompt": "a", "sampling_params": {"n": 2, "max_tokens": 10**6, "stop": [" "]}},
    {"prompt": "a river " * 5000},
    {"prompt": [BEYOND]},
    {"messages": [{"content": "Hi"}]},
    {"prompt": "a", "sampling_params": {"stop_token_ids": [BEYOND]}},
    {"prompt": "a", "sampling_params": {"structured_outputs": {"regex": "("}}},
]
REFUSED = 5


def test_it_counts_as_a_run_does(one_rank: Service) -> None:
    params = {"max_tokens": 2, "ignore_eos": True, "temperature": 0}
    planned = one_rank.batch(PROMPTS, sampling_params=params, dry_run=True)
    assert planned["request_counts"]["refused"] == REFUSED
    assert one_rank.is_idle()
    for item, result in zip(planned["items"], one_rank.batch(PROMPTS, sampling_params=params)["results"], strict=True):
        assert item["prompt_tokens"] == result["usage"]["prompt_tokens"], item
        assert item.get("error") == result.get("error")
        assert result["usage"]["completion_tokens"] <= item["max_completion_tokens"]
        if item["index"] < len(PROMPTS) - REFUSED - 1 and item["index"] != 14:
            assert item["max_completion_tokens"] == 2
    context = one_rank.ranks()[0]["max_model_len"]
    assert planned["items"][14]["max_completion_tokens"] == 1, "the rest of the context"
    own = planned["items"][-REFUSED - 1]
    assert own["max_completion_tokens"] == 2 * (context - own["prompt_tokens"])
