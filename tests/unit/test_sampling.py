"""Sampling parameters: types, limits, what is refused, and how an item's go over the batch's."""

from typing import Any

import msgspec
import pytest

from app.batches.sampling import Params, ParamsRefused, SamplingResolver
from app.errors import TooLarge
from app.settings.declaration import Settings
from app.validation import Complaint
from engines.contract.sampling import REFUSED_FIELDS, RepetitionDetection, SamplingFields, StructuredOutputs

SETTINGS = Settings()


def resolver(batch_wide: object = None, **settings: Any) -> SamplingResolver:
    return SamplingResolver(Settings(**settings), None if batch_wide is None else msgspec.json.encode(batch_wide))


def fields(params: Params) -> dict[str, Any]:
    """What a rank is sent."""
    decoded: dict[str, Any] = msgspec.msgpack.decode(params.wire)
    return decoded


def of_item(batch_wide: object, own: object) -> dict[str, Any]:
    return fields(resolver(batch_wide).of_item(msgspec.json.encode(own), "prompts[0]"))


def refusal(raw: object, **settings: Any) -> Complaint:
    with pytest.raises(ParamsRefused) as refused:
        SamplingResolver(Settings(**settings), raw if isinstance(raw, bytes) else msgspec.json.encode(raw))
    return refused.value.complaint


# ---------------------------------------------------------------- types

OBJECT, LIST, TEXT = {"a": 1}, [1.5], "x"
# Values that each field must not have; what stands in a list or an object is meant as it stands.
INTEGER: list[Any] = [TEXT, 1.5, True, LIST, OBJECT]
NUMBER: list[Any] = [TEXT, True, LIST, OBJECT]
BOOLEAN: list[Any] = [TEXT, 1, 1.5, LIST, OBJECT]
IDS: list[Any] = [TEXT, 1, OBJECT, [TEXT], [1.5], [-1], [2**31], [None]]
STRINGS: list[Any] = [1, OBJECT, [1], [None], [[TEXT]]]
WRONG: dict[str, list[Any]] = {
    "n": [*INTEGER, 0, -1, 2**31],
    "presence_penalty": [*NUMBER, -2.1, 2.1],
    "frequency_penalty": [*NUMBER, -2.1, 2.1],
    "repetition_penalty": [*NUMBER, 0, -0.0, 5e-324, 1e-10, 1e10, 1e308],
    "temperature": [*NUMBER, -1, -5e-324, 1e10, 1e308],
    "top_p": [*NUMBER, 0, -0.0, 5e-324, 1e-10, 1.1],
    "top_k": [*INTEGER, -2, 2**31],
    "min_p": [*NUMBER, -0.1, 1.1, 1e308],
    "seed": [*INTEGER, 2**63, -(2**63) - 1],
    "stop": STRINGS,
    "stop_token_ids": IDS,
    "bad_words": [*STRINGS, TEXT],
    "include_stop_str_in_output": BOOLEAN,
    "ignore_eos": BOOLEAN,
    "max_tokens": [*INTEGER, 0, 2**31],
    "min_tokens": [*INTEGER, -1, 2**31],
    "logprobs": [*INTEGER, -2, 2**31],
    "prompt_logprobs": [*INTEGER, -2, 2**31],
    "logprob_token_ids": [*IDS, [], [1] * 129],
    "flat_logprobs": BOOLEAN,
    "detokenize": BOOLEAN,
    "skip_special_tokens": BOOLEAN,
    "spaces_between_special_tokens": BOOLEAN,
    "structured_outputs": [TEXT, 1, True, LIST, OBJECT, {"json": 1}, {"regex": 1}, {"choice": []}, {"choice": "a"}],
    "logit_bias": [TEXT, 1, LIST, {"a": 1}, {"1": TEXT}, {"-1": 1}, {"1.5": 1}, {"1": None}, {"1": 1e10}, {"1": -1e39}],
    "allowed_token_ids": [*IDS, [], [1] * 1025],
    "skip_reading_prefix_cache": BOOLEAN,
    "thinking_token_budget": [*INTEGER, -2, 2**31],
    "repetition_detection": [TEXT, 1, True, LIST, OBJECT, {"min_count": TEXT}, {"min_count": -1}],
    "watermarking": BOOLEAN,
}


def test_every_field_is_tested_for_wrong_types() -> None:
    assert set(WRONG) == set(SamplingFields.__struct_fields__)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_type_or_range_is_refused_by_place(name: str, value: object) -> None:
    found = refusal({"max_tokens": 5, "top_p": 0.5} | {name: value})
    assert found.param is not None and found.param.startswith(f"sampling_params.{name}")
    assert name in found.message
    own = msgspec.json.encode({name: value})
    with pytest.raises(ParamsRefused) as refused:
        resolver({"max_tokens": 5}).of_item(own, "prompts[3]")
    assert refused.value.complaint.param == f"prompts[3].{found.param}"


def test_the_offending_value_is_shown() -> None:
    found = refusal({"top_p": "warm"})
    assert found.message == "sampling_params.top_p: expected float, got str (it is 'warm')"


@pytest.mark.parametrize("raw", [b"[]", b'"x"', b"5", b"true"])
def test_parameters_must_be_an_object(raw: bytes) -> None:
    assert refusal(raw).message.startswith("sampling_params: expected object, got")


@pytest.mark.parametrize("digits", [30, 400, 5000])
@pytest.mark.parametrize(
    "around",
    ['{"temperature":%s}', '{"top_k":%s}', '{"logit_bias":{"1":%s}}', '{"structured_outputs":{"json":{"a":%s}}}'],
)
def test_huge_numbers_are_refused_or_run_and_never_a_fault(around: str, digits: int) -> None:
    raw = (around % ("1" + "0" * digits)).encode()
    try:
        params = SamplingResolver(SETTINGS, raw).batch_wide
    except ParamsRefused as refused:
        assert (refused.complaint.param or "").startswith("sampling_params")
    else:
        assert digits == 30 and fields(params).keys() & {"temperature", "logit_bias"}


def test_more_biases_than_a_worker_can_hold_are_refused() -> None:
    resolver({"logit_bias": dict.fromkeys(range(1024), 1.0), "allowed_token_ids": [1] * 1024})
    found = refusal({"logit_bias": dict.fromkeys(range(1025), 1.0)})
    assert found.param == "sampling_params.logit_bias"
    assert "length <= 1024" in found.message


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("name", [*REFUSED_FIELDS, "trace_id", "_real_n", "_all_stop_token_ids"])
def test_internal_fields_are_refused_with_the_reason(name: str) -> None:
    found = refusal({name: 1})
    assert found.param == f"sampling_params.{name}"
    assert found.message.startswith(f"sampling_params.{name} is not accepted: ")
    assert found.message.endswith("; leave it out")


def test_an_unknown_name_gets_a_hint() -> None:
    assert refusal({"max_token": 5}).message == (
        "sampling_params.max_token is no sampling parameter: did you mean 'max_tokens'?"
    )
    assert refusal({"zzz": 5}).message == "sampling_params.zzz is no sampling parameter"
    assert refusal({"structured_outputs": {"jsn": {}}}).message.startswith(
        "unknown field 'jsn' in sampling_params.structured_outputs"
    )


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("value", "setting", "flag"),
    [
        ({"n": 4}, {"max_n": 3}, "--max-n"),
        ({"stop": ["a"] * 4}, {"max_stop_strings": 3}, "--max-stop-strings"),
        ({"bad_words": ["a"] * 4}, {"max_stop_strings": 3}, "--max-stop-strings"),
        ({"stop": "abcd"}, {"max_string_length": 3}, "--max-string-length"),
        ({"stop": ["a", "abcd"]}, {"max_string_length": 3}, "--max-string-length"),
        ({"bad_words": ["abcd"]}, {"max_string_length": 3}, "--max-string-length"),
        ({"stop_token_ids": [1] * 4}, {"max_list_length": 3}, "--max-list-length"),
        ({"allowed_token_ids": [1] * 4}, {"max_list_length": 3}, "--max-list-length"),
        ({"logprob_token_ids": [1] * 4}, {"max_list_length": 3}, "--max-list-length"),
        ({"logit_bias": {"1": 1, "2": 1, "3": 1, "4": 1}}, {"max_list_length": 3}, "--max-list-length"),
        ({"structured_outputs": {"regex": "a" * 9}}, {"max_structure_length": 8}, "--max-structure-length"),
        ({"structured_outputs": {"grammar": "a" * 9}}, {"max_structure_length": 8}, "--max-structure-length"),
        ({"structured_outputs": {"json": "a" * 9}}, {"max_structure_length": 8}, "--max-structure-length"),
        ({"structured_outputs": {"json": {"a": "b" * 9}}}, {"max_structure_length": 8}, "--max-structure-length"),
        ({"structured_outputs": {"choice": ["abc"] * 3}}, {"max_structure_length": 8}, "--max-structure-length"),
        ({"structured_outputs": {"choice": [""] * 4}}, {"max_list_length": 3}, "--max-list-length"),
    ],
)
def test_sizes_are_bounded_by_settings(value: dict[str, Any], setting: dict[str, int], flag: str) -> None:
    found = refusal(value, **setting)
    assert (found.param or "").startswith(f"sampling_params.{next(iter(value))}")
    assert f"at most {next(iter(setting.values()))} are accepted ({flag})" in found.message
    resolver(value)


def test_a_schema_may_not_be_nested_without_end() -> None:
    def nested(depth: int) -> dict[str, Any]:
        schema: dict[str, Any] = {}
        for _ in range(depth):
            schema = {"properties": schema}
        return {"structured_outputs": {"json": schema}}

    resolver(nested(50))
    assert "nested deeper than 64 levels" in refusal(nested(70)).message


# ---------------------------------------------------------------- merging


def test_without_parameters_an_item_gets_the_default_number_of_tokens() -> None:
    found = resolver(default_max_tokens=7).batch_wide
    assert (fields(found), found.n, found.max_tokens, found.seed) == ({"max_tokens": 7}, 1, 7, None)


def test_an_items_own_go_over_the_batchs_key_by_key() -> None:
    assert of_item({"top_p": 0.5, "max_tokens": 5}, {"max_tokens": 9, "n": 2}) == {
        "top_p": 0.5,
        "max_tokens": 9,
        "n": 2,
    }


def test_null_restores_a_default() -> None:
    assert of_item({"top_p": 0.5, "max_tokens": 5}, {"top_p": None, "max_tokens": None}) == {"max_tokens": 1024}
    assert fields(resolver({"top_p": None, "max_tokens": 5}).batch_wide) == {"max_tokens": 5}


def test_null_is_the_same_as_absence_wherever_a_field_stands() -> None:
    assert resolver(dict.fromkeys(SamplingFields.__struct_fields__)).batch_wide == resolver().batch_wide
    structure = dict.fromkeys(StructuredOutputs.__struct_fields__) | {"json": {"const": None}}
    repetition = dict.fromkeys(RepetitionDetection.__struct_fields__) | {"min_count": 2}
    found = fields(resolver({"structured_outputs": structure, "repetition_detection": repetition}).batch_wide)
    assert found["structured_outputs"] == {"json": {"const": None}}
    assert found["repetition_detection"] == {"min_count": 2}


def test_objects_are_replaced_and_not_merged() -> None:
    batch_wide = {"structured_outputs": {"regex": "a"}, "max_tokens": 1}
    assert of_item(batch_wide, {"structured_outputs": {"choice": ["b"]}}) == {
        "structured_outputs": {"choice": ["b"]},
        "max_tokens": 1,
    }


def test_what_fails_only_together_is_the_items_fault() -> None:
    merged = resolver({"n": 2, "max_tokens": 5})
    with pytest.raises(ParamsRefused) as refused:
        merged.of_item(b'{"n":500}', "prompts[7]")
    assert refused.value.complaint.param == "prompts[7].sampling_params.n"


def test_equal_parameters_are_worked_out_once() -> None:
    found = resolver({"max_tokens": 5})
    assert found.of_item(b'{"n":2}', "prompts[0]") is found.of_item(b'{"n":2}', "prompts[1]")
    for place in ("prompts[2]", "prompts[3]"):
        with pytest.raises(ParamsRefused) as refused:
            found.of_item(b'{"n":0}', place)
        assert refused.value.complaint.param == f"{place}.sampling_params.n"


def test_a_seed_travels_beside_the_parameters() -> None:
    found = resolver({"seed": 5, "n": 3})
    assert (found.batch_wide.seed, found.batch_wide.n) == (5, 3)
    assert "seed" not in fields(found.batch_wide)
    own = found.of_item(b'{"seed":0}', "prompts[0]")
    assert (own.seed, own.seed_is_own) == (0, True)
    assert own.wire == found.batch_wide.wire  # so that items with seeds of their own share their parameters
    assert found.of_item(b'{"n":2}', "prompts[1]").seed_is_own is False
    assert found.of_item(None, "prompts[2]") is found.batch_wide
    none = found.of_item(b'{"seed":null}', "prompts[3]")  # as for every field, null restores the default
    assert (none.seed, none.seed_is_own) == (None, True)


def test_seeds_of_their_own_cost_no_parameters_of_their_own() -> None:
    found = resolver({"stop": ["x"] * 50, "seed": 1})
    wires = {id(found.of_item(b'{"seed":%d}' % seed, "prompts[0]").wire) for seed in range(100)}
    assert len(wires) == 1
    assert found.wire_bytes == len(found.batch_wide.wire)


def test_what_differs_has_a_bound_over_the_whole_batch() -> None:
    found = resolver({"stop": ["x" * 1000]}, max_body_bytes=10_000)
    with pytest.raises(TooLarge, match=r"more than 10000 bytes \(--max-body-bytes\)") as refused:
        for tokens in range(1, 20):
            found.of_item(b'{"max_tokens":%d}' % tokens, "prompts[0]")
    assert (refused.value.status, refused.value.param) == (413, "sampling_params")


def test_names_and_values_of_any_length_are_shown_shortened() -> None:
    for raw in (b'{"%s":1}' % (b"x" * 500_000), b'{"n":"%s"}' % (b"x" * 500_000), b'{"n":[%s1]}' % (b"1," * 100_000)):
        found = refusal(raw)
        assert len(found.message) < 500
        assert len(found.param or "") < 200
    assert "bytes, at most" in refusal(b'{"n":"%s"}' % (b"x" * 2_000_000)).message
