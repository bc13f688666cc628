"""Every sampling parameter on real vLLM, right and wrong; after each wrong one a plain prompt still runs."""

from typing import Any

import pytest

from engines.contract.sampling import SamplingFields
from tests.service import Service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

# What each field takes, and does something visible or at least harmless with.
RIGHT: dict[str, Any] = {
    "n": 2,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "repetition_penalty": 1.1,
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.05,
    "seed": -3,  # of one output
    "stop": ["zzz", "qqq"],
    "stop_token_ids": [7],
    "bad_words": ["France"],
    "include_stop_str_in_output": True,
    "ignore_eos": True,
    "max_tokens": 3,
    "min_tokens": 2,
    "logprobs": 2,
    "prompt_logprobs": 1,
    "flat_logprobs": True,
    "detokenize": False,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "structured_outputs": {"regex": "[a-c]{3}"},
    "logit_bias": {"65": 20.0},
    "allowed_token_ids": [65, 66, 67],
    "skip_reading_prefix_cache": True,
    "repetition_detection": {"max_pattern_size": 4, "min_count": 3},
    "watermarking": False,
}
# Refused by vLLM unless a reasoning parser is set, and for the sake of other requests on this model runner.
NEEDS_SETUP = {"thinking_token_budget", "logprob_token_ids"}
WRONG_VALUES: list[Any] = [
    *("x", "", "5", "true", -(2**80), 2**80, 10**400, -1, 0, 1.5, -1e308, 1e308, True, False),
    *([], {}, ["x"], {"x": "y"}, [[1]], [2**40], [None], [True], [1.5], [""], [{}], {"1": None}, {"1": "x"}, {"-1": 1}),
    *({"1": True}, {"1": [1]}, {"json": 5}, {"regex": None}, {"regex": ["a"]}, {"choice": "a"}, {"choice": [1]}),
    *({"json_object": "yes"}, {"max_pattern_size": "x"}, {"max_pattern_size": -1}, {"_backend": "outlines"}),
]


@pytest.fixture(scope="module")
def service(one_rank: Service) -> Service:
    """One rank is enough."""
    return one_rank


def one(service: Service, params: dict[str, Any]) -> dict[str, Any]:
    """The result of one item with these parameters of its own."""
    items = [{"prompt": "The capital of France is", "sampling_params": {"max_tokens": 4} | params}]
    result: dict[str, Any] = service.batch(items)["results"][0]
    return result


def assert_alive(service: Service) -> None:
    """A plain prompt runs."""
    assert one(service, {})["status"] == "ok"


def test_every_field_has_a_right_value_in_these_tests() -> None:
    assert set(SamplingFields.__struct_fields__) == set(RIGHT) | NEEDS_SETUP


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_a_right_value_is_accepted(service: Service, name: str) -> None:
    result = one(service, {name: RIGHT[name]})
    assert result["status"] == "ok", result
    assert len(result["outputs"]) == (2 if name == "n" else 1)


@pytest.mark.parametrize("name", sorted(SamplingFields.__struct_fields__))
def test_wrong_types_are_refused_and_a_plain_prompt_still_runs(service: Service, name: str) -> None:
    items = [{"prompt": "Hello", "sampling_params": {"max_tokens": 2, name: value}} for value in WRONG_VALUES]
    results = service.batch([*items, "plain"], sampling_params={"max_tokens": 2})["results"]
    refused = [result for result in results if result["status"] == "error"]
    assert refused, "no value was wrong"
    for result in refused:
        assert result["error"]["code"] == "invalid_sampling_params", result
        assert "sampling_params" in result["error"]["param"]
    assert results[-1]["status"] == "ok"
    assert_alive(service)


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"top_p": 7}, "sampling_params.top_p"),
        ({"temperature": -1}, "sampling_params.temperature"),
        ({"logprobs": 100000}, "sampling_params.logprobs"),
        ({"allowed_token_ids": [10**6]}, "sampling_params"),
        ({"stop_token_ids": [10**6]}, "sampling_params"),
        ({"logit_bias": {"1000000": 1}}, "sampling_params"),
        ({"min_tokens": 9, "max_tokens": 3}, "sampling_params"),
        ({"structured_outputs": {"regex": "[a-"}}, "sampling_params"),
        ({"structured_outputs": {"json": "{broken"}}, "sampling_params"),
        ({"structured_outputs": {}}, "sampling_params"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "sampling_params"),
        ({"thinking_token_budget": 5}, "sampling_params"),
        ({"logprobs": 2, "logprob_token_ids": [5, 6]}, "sampling_params.logprob_token_ids"),
        ({"stop": [""]}, "sampling_params"),
        ({"bad_words": [""]}, "sampling_params"),
    ],
)
def test_what_vllm_refuses_is_refused_for_the_whole_batch_with_400(
    service: Service, params: dict[str, Any], param: str
) -> None:
    answer = service.post(["Hello"], sampling_params=params)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"].startswith(param)
    assert error["code"] == "invalid_sampling_params"
    result = one(service, params)
    assert result["error"]["code"] == "invalid_sampling_params"
    assert result["error"]["param"].startswith(f"prompts[0].{param}")
    assert_alive(service)


def test_parameters_do_what_they_say(service: Service) -> None:
    assert (
        one(service, {"structured_outputs": {"regex": "[a-c]{3}"}, "max_tokens": 9})["outputs"][0]["text"].strip("abc")
        == ""
    )
    first = one(service, {"temperature": 0.0, "max_tokens": 6})
    word = first["outputs"][0]["text"][1:3]
    stopped = one(service, {"temperature": 0.0, "max_tokens": 6, "stop": [word]})["outputs"][0]
    assert (stopped["finish_reason"], stopped["stop_reason"]) == ("stop", word)
    assert len(one(service, {"logprobs": 2})["outputs"][0]["logprobs"]) == 4
    with_prompt = one(service, {"prompt_logprobs": 0})["prompt_logprobs"]
    assert with_prompt[0] is None
    assert len(with_prompt) > 1


def test_prompts_are_refused_one_by_one(service: Service) -> None:
    """Each with its code, beside neighbours that run."""
    prompts: list[Any] = [
        "fine",
        [],
        "",
        [1, 5000],
        [1, -1],
        [1, "x"],
        [2**70],
        "word " * 5000,
        {"prompt": "word " * 5000, "truncate_prompt_tokens": 10},
        {"messages": []},
        {"messages": [{"content": "no role"}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/x"}}]}
            ]
        },
        {"messages": [{"role": "user", "content": "Hi"}], "chat_template_kwargs": {"chat_template": "{{ 1 }}"}},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
        {
            "messages": [{"role": "user", "content": "Hi"}],
            "chat_template_kwargs": {"padding": "max_length", "max_length": 10**9},
        },
    ]
    results = service.batch(prompts, sampling_params={"max_tokens": 2})["results"]
    codes = [result.get("error", {}).get("code") for result in results]
    bad = "invalid_prompt"
    expected = [None, bad, bad, bad, bad, bad, bad, "context_length_exceeded", None, bad, bad, bad, bad, None, bad]
    assert codes == expected
    assert results[8]["usage"]["prompt_tokens"] == 10
