"""A dry run on real vLLM: the prompt tokens that a run shows, whatever kind of prompt it is, and the same errors."""

from typing import Any

import pytest

from tests.e2e.conftest import as_items, mixed_prompts
from tests.service import Service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
MESSAGES = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "What is a river?"}]
BEYOND = 10**7  # a token id outside of any vocabulary
RUN: list[Any] = [
    *as_items(mixed_prompts(12)),
    "été, 世界 🙂",
    {"prompt": "a river " * 50, "truncate_prompt_tokens": 5},
    {"messages": MESSAGES, "truncate_prompt_tokens": 3},
    {"messages": MESSAGES, "chat_template_kwargs": {"add_generation_prompt": False}},
    {"prompt": list(range(10, 30)), "truncate_prompt_tokens": 4},
]
REFUSED: list[Any] = [
    {"prompt": "a river " * 5000},
    {"prompt": [BEYOND]},
    {"messages": [{"content": "Hi"}]},
    {"prompt": "a", "sampling_params": {"n": 2}},  # with temperature 0
    {"prompt": "a", "sampling_params": {"stop_token_ids": [BEYOND]}},
    {"prompt": "a", "sampling_params": {"structured_outputs": {"regex": "("}}},
]


def test_it_counts_as_a_run_does(one_rank: Service) -> None:
    context = one_rank.ranks()[0]["max_model_len"]
    long = {"prompt": "a river " * 5000, "truncate_prompt_tokens": -1}
    several = {"n": 2, "max_tokens": 10**6, "temperature": 1}
    prompts = [*RUN, long, long | {"truncate_prompt_tokens": context - 3, "sampling_params": several}, *REFUSED]
    params = {"max_tokens": 2, "ignore_eos": True, "temperature": 0}
    planned = one_rank.batch(prompts, sampling_params=params, dry_run=True)
    assert one_rank.is_idle()
    for item, result in zip(planned["items"], one_rank.batch(prompts, sampling_params=params)["results"], strict=True):
        assert item["prompt_tokens"] == result["usage"]["prompt_tokens"], item
        assert item["max_completion_tokens"] == result["usage"]["completion_tokens"], "nothing ends it before"
        assert item.get("error") == result.get("error")
    most = [item["max_completion_tokens"] for item in planned["items"]]
    assert most == [2] * len(RUN) + [1, 6] + [0] * len(REFUSED)
    assert planned["items"][len(RUN)]["prompt_tokens"] == context - 1
