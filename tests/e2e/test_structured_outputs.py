"""What real vLLM makes of a corpus of structures: each is held, or refused by name.

The judges here are not the rank's.
"""

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from engines.contract.item_errors import ItemErrorCode
from tests.e2e.conftest import judged
from tests.service import Json, Service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

# name, structure, and what is expected of it: held; judged, where the library that holds it knows less than a validator
# (leap seconds); or refused, with words that the message has.
CORPUS: list[Json] = json.loads(Path(__file__).parents[1].joinpath("structures.json").read_text())
SAMPLES = 6
WHERE = "sampling_params.structured_outputs"
BOOLEAN: Json = {"json": {"type": "boolean"}}
NOT_HELD: Json = {"json": {"type": "object", "properties": {"a": {"not": {"type": "null"}}}}}


def is_right(structure: Json, text: str) -> bool:
    """Whether a whole text is what the structure says, as others than the rank judge it."""
    if "json" in structure:
        schema = structure["json"]
        schema = schema if isinstance(schema, str) else json.dumps(schema)
        # Decimals: 2.47 is a multiple of 0.01, which floats do not know.
        jsonschema.validate(*(json.loads(part, parse_float=Decimal) for part in (text, schema)))
        return True
    if "json_object" in structure:
        return isinstance(json.loads(text), dict)
    if "regex" in structure:
        return re.fullmatch(structure["regex"], text) is not None
    if "choice" in structure:
        return text in structure["choice"]
    return True


@pytest.fixture(scope="module")
def results(one_rank: Service) -> dict[str, list[Json]]:
    """Of every structure some samples, all at once."""
    common = {"temperature": 1.0, "max_tokens": 300}
    items = [
        {"prompt": f"{seed}", "sampling_params": common | {"structured_outputs": entry["structure"], "seed": seed}}
        for entry in CORPUS
        for seed in range(SAMPLES)
    ]
    answers = judged(one_rank, items, one_rank.batch(items)["results"])
    return {
        entry["name"]: answers[place : place + SAMPLES]
        for entry, place in zip(CORPUS, range(0, len(answers), SAMPLES), strict=True)
    }


def named(expected: str) -> list[str]:
    return [entry["name"] for entry in CORPUS if entry["expected"] == expected]


def entry_of(name: str) -> Json:
    (entry,) = [entry for entry in CORPUS if entry["name"] == name]
    return entry


@pytest.mark.parametrize("name", named("held"))
def test_a_structure_is_held(results: dict[str, list[Json]], name: str) -> None:
    structure = entry_of(name)["structure"]
    for result in results[name]:
        assert result["status"] == "ok", result
        (output,) = result["outputs"]
        assert output["finish_reason"] != "stop" or is_right(structure, output["text"]), output


@pytest.mark.parametrize("name", named("judged"))
def test_what_is_not_quite_held_is_judged(results: dict[str, list[Json]], name: str) -> None:
    for result in results[name]:
        error = result.get("error", {"code": "invalid_structured_output", "retryable": True})
        assert (error["code"], error["retryable"]) == ("invalid_structured_output", True)


@pytest.mark.parametrize("name", named("refused"))
def test_a_structure_that_cannot_be_held_is_refused_by_name(results: dict[str, list[Json]], name: str) -> None:
    for result in results[name]:
        assert result["status"] == "error", result
        error = result["error"]
        assert (error["code"], error["retryable"]) == ("invalid_sampling_params", False)
        assert WHERE in error["param"]
        assert all(word in error["message"] for word in entry_of(name)["names"]), error


def test_one_of_the_whole_batch_is_400(one_rank: Service) -> None:
    answer = one_rank.post(["a", "b"], sampling_params={"structured_outputs": NOT_HELD})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == f"{WHERE}.json"
    assert "'not' at properties/a" in error["message"]


def test_two_hundred_short_strings_are_all_json(one_rank: Service) -> None:
    params = {"structured_outputs": {"json": {"type": "string", "maxLength": 8}}, "temperature": 1.0, "max_tokens": 60}
    prompts = [f"Say {number}" for number in range(200)]
    for result in one_rank.batch(prompts, sampling_params=params | {"seed": 5})["results"]:
        (output,) = result["outputs"]
        if output["finish_reason"] == "stop":
            assert len(json.loads(output["text"])) <= 8


CONTRADICTIONS: dict[str, Json] = {
    "allowed_token_ids": {"allowed_token_ids": [600]},
    "bad_words": {"bad_words": ["t", "f", "tr", "true", "fa", "fal"]},
    "min_tokens": {"min_tokens": 20},
    "ignore_eos": {"ignore_eos": True},
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_parameters_that_contradict_a_structure_are_named_and_nothing_runs_again(one_rank: Service, name: str) -> None:
    params = {"structured_outputs": BOOLEAN, "max_tokens": 30} | CONTRADICTIONS[name]
    (result,) = one_rank.batch([{"prompt": "Hello", "sampling_params": params}])["results"]
    assert result["status"] == "error", result
    error = result["error"]
    assert (error["code"], error["retryable"]) == (ItemErrorCode.INVALID_SAMPLING_PARAMS, False)
    assert name in error["message"]
    assert result["attempts"] == 1
    assert result["usage"]["completion_tokens"] > 0, "what it took is told"


@pytest.mark.parametrize(
    "params",
    [{"detokenize": False}, {"skip_special_tokens": False, "include_stop_str_in_output": True}],
)
def test_parameters_that_spoil_the_text_are_refused(one_rank: Service, params: Json) -> None:
    answer = one_rank.post(["a"], sampling_params={"structured_outputs": BOOLEAN} | params)
    assert answer.status_code == 400, answer.text
    assert all(name in answer.json()["error"]["message"] for name in params)


def test_no_bias_is_stronger_than_a_structure(one_rank: Service) -> None:
    params = {"structured_outputs": BOOLEAN, "logit_bias": {str(token): -1e9 for token in range(1024)}}
    (result,) = one_rank.batch(["Hello"], sampling_params=params)["results"]
    assert result["outputs"][0]["text"] in ("true", "false")


def test_what_a_client_cut_is_no_error(one_rank: Service) -> None:
    cuts: list[Json] = [{"stop": ["e"]}, {"max_tokens": 1}, {"stop": ["e"], "include_stop_str_in_output": True}]
    items = [{"prompt": "Hello", "sampling_params": {"structured_outputs": BOOLEAN} | cut} for cut in cuts]
    results = one_rank.batch(items)["results"]
    assert [result["status"] for result in results] == ["ok"] * len(cuts)


def test_whitespace_and_further_properties_are_left_out_where_that_was_asked_for(one_rank: Service) -> None:
    schema: Any = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}
    structure = {"json": schema, "disable_any_whitespace": True, "disable_additional_properties": True}
    prompts = [f"Say {number}" for number in range(20)]
    results = one_rank.batch(prompts, sampling_params={"structured_outputs": structure, "temperature": 1.0})["results"]
    assert {output["text"] for result in results for output in result["outputs"]} == {'{"a":1}'}
