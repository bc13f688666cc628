"""A rank whose two tensor-parallel workers torchrun has started. Real vLLM through HTTP."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import UNCOMPILED, Reference, as_items, judged, mixed_prompts
from tests.service import Json, Service, serving, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
GREEDY = {"temperature": 0.0, "max_tokens": 12}
FOLLOWER = "phalanx-worker 0.1"


@pytest.fixture(scope="module")
def service(dense_reference: Reference, dense_model: Path) -> Iterator[Service]:
    """One rank of two workers."""
    flags = (str(dense_model), "--enforce-eager", "--executor", "external_launcher", "--tp-size", "2")
    with serving(*flags, engine="vllm", dp_size=1, variables=UNCOMPILED) as running:
        yield running


def texts_of(result: Json) -> list[str]:
    return [output["text"] for output in result["outputs"]]


def texts(answer: Json) -> list[str]:
    return [texts_of(result)[0] for result in answer["results"]]


def test_it_says_what_one_engine_alone_says(service: Service, dense_reference: Reference) -> None:
    answer = service.batch(as_items(mixed_prompts()), sampling_params=GREEDY)
    assert texts(answer) == dense_reference.texts()


def test_the_other_worker_is_one_of_its_processes(service: Service) -> None:
    (rank,) = service.ranks()
    assert rank["group_kind"] == "replicas"
    assert rank["processes"][FOLLOWER] in service.titled(FOLLOWER)


def kinds(index: int) -> dict[str, Any]:
    """Sampling parameters of an item of the mix."""
    common = {"max_tokens": 8 + index % 40, "temperature": 1.0, "seed": index}
    return (
        common
        | [
            {"n": 3},
            {"logprobs": 2, "prompt_logprobs": 1},
            {"structured_outputs": {"regex": "[a-c]{3}"}},
            {"structured_outputs": {"json": {"type": "boolean"}}},
            {"stop": ["e", "a"]},
            {"top_k": 5, "repetition_penalty": 1.2, "bad_words": ["France"]},
            {"allowed_token_ids": [65, 66, 67]},
            {"temperature": 0.0},
        ][index % 8]
    )


def test_items_of_all_kinds_run_together_while_others_are_given_up(service: Service) -> None:
    items: list[Any] = [
        {"prompt": prompt, "sampling_params": kinds(index)}
        for index, prompt in enumerate(f"{number} words" for number in range(400))
    ]
    endless = {"max_tokens": 1900, "ignore_eos": True, "n": 2}
    with service.begin(["to be left"] * 50, sampling_params=endless) as left:
        late = service.begin(["too long"] * 50, sampling_params=endless, timeout_s=0.5)
        mixed = service.begin(items)
        until(lambda: sum(service.held) > 100, "it does not run")
        left.hang_up()
        answer = mixed.answer()
        assert {result["status"] for result in late.answer()["results"]} == {"timeout"}
    results = judged(service, items, answer["results"])
    assert {result["status"] for result in results} == {"ok"}
    assert all(len(result["outputs"]) == kinds(index).get("n", 1) for index, result in enumerate(results))
    for index, result in enumerate(results):
        (text, *_) = texts_of(result)
        match index % 8:
            case 1:
                assert len(result["outputs"][0]["logprobs"]) == result["usage"]["completion_tokens"]
            case 2:
                assert re.fullmatch("[a-c]{3}", text)
            case 3:
                assert json.loads(text) in (True, False)
            case 4:
                assert not {"e", "a"} & set(text)
    again = judged(service, items, service.batch(items)["results"])
    assert [texts_of(result) for result in again] == [texts_of(result) for result in results]
    until(service.is_idle, "what was given up still runs")


def test_wrong_parameters_are_their_items_own_error(service: Service) -> None:
    items: list[Any] = [
        {"prompt": "x", "sampling_params": {"allowed_token_ids": [10**6]}},
        {"prompt": "x", "sampling_params": {"structured_outputs": {"regex": "["}}},
        {"prompt": "x", "sampling_params": {"max_tokens": 1}},
    ]
    assert [result["status"] for result in service.batch(items)["results"]] == ["error", "error", "ok"]


def test_its_engines_metrics_are_there(service: Service) -> None:
    assert service.metric("vllm:generation_tokens_total", engine="0") > 0
    until(lambda: service.ranks()[0]["steps"], "it has made no step")
