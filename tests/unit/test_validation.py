"""What a client reads when a request cannot be decoded: the place, what is wrong, and a hint."""

import msgspec
import pytest

from app.batches.parsing import parse
from app.errors import InvalidRequest
from app.validation import DECODE_ERRORS, complaint, did_you_mean, shown

GOOD = b'"prompts":["a"]'


def refused(body: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as found:
        parse(body)
    assert found.value.status == 400
    return found.value


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (b"", None, "the body is not valid JSON: Input data was truncated"),
        (b"{", None, "the body is not valid JSON: Input data was truncated"),
        (b"{" + GOOD + b"} x", None, "the body is not valid JSON: JSON is malformed: trailing characters (byte 19)"),
        (b'{"prompts":[NaN]}', None, "the body is not valid JSON: JSON is malformed: invalid character (byte 12)"),
        (b"[]", None, "the body: expected object, got array"),
        (b"{}", "prompts", "prompts is missing"),
        (b'{"prompts":null}', "prompts", "prompts: expected array, got null"),
        (b'{"prompts":[]}', "prompts", "prompts: expected array of length >= 1"),
        (b"{" + GOOD + b',"timeout_s":0}', "timeout_s", "timeout_s: expected float > 0.0"),
        (b"{" + GOOD + b',"timeout_s":1e999}', "timeout_s", "timeout_s: number out of range"),
        (b"{" + GOOD + b',"priority":1' + b"0" * 99 + b"}", "priority", "priority: expected int <= 2147483647"),
        (b"{" + GOOD + b',"stream":"yes"}', "stream", "stream: expected bool | null, got str"),
    ],
)
def test_a_message_names_the_place_and_what_is_wrong(body: bytes, param: str | None, message: str) -> None:
    found = refused(body)
    assert (found.param, found.message) == (param, message)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("max_tokens", "it belongs in sampling_params"),
        ("n", "it belongs in sampling_params"),
        ("prompt", "it is called prompts here, and is a list"),
        ("requests", "it is called prompts here"),
        ("messages", 'it belongs in an entry of prompts, as in {"messages": [...]}'),
        ("custom_ids", "custom_id belongs in an entry of prompts"),
        ("idempotency_key", "it is a header, Idempotency-Key"),
        ("modle", "did you mean 'model'?"),
        ("promts", "did you mean 'prompts'?"),
    ],
)
def test_an_unknown_field_gets_a_hint(name: str, hint: str) -> None:
    found = refused(b'{"%s":5,%s}' % (name.encode(), GOOD))
    assert (found.param, found.message) == (name, f"unknown field {name!r}: {hint}")


def test_an_unknown_field_without_a_near_one_is_just_named() -> None:
    assert refused(b'{"zzz":5,%s}' % GOOD).message == "unknown field 'zzz'"


def test_a_fields_name_cannot_break_or_flood_a_message() -> None:
    assert refused(b'{"a`b\\nc":5,%s}' % GOOD).message == r"unknown field 'a`b\nc'"
    found = refused(b'{"%s":5,%s}' % (b"x" * 5000, GOOD))
    assert len(found.message) < 120 and found.param is not None and len(found.param) < 120


def test_what_is_no_text_is_told_without_a_wrong_position() -> None:
    assert refused(b'{"model":"\xff",%s}' % GOOD).message == "the body is not valid UTF-8: invalid start byte"
    assert refused(b'{"prompts":["\\ud800"]}').message.startswith("the body is not valid JSON")


def test_deep_nesting_ends_in_a_message() -> None:
    found = refused(b'{"prompts":[' + b"[" * 100_000 + b"]" * 100_000 + b"]}")
    assert (found.param, found.message) == (None, "the body is nested too deeply")


class Inner(msgspec.Struct):
    """Something with a list."""

    numbers: list[int]


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    """Something with something in it."""

    inner: Inner | None = None
    by_name: dict[str, int] = {}


@pytest.mark.parametrize(
    ("raw", "param", "message"),
    [
        (b'{"inner":{"numbers":[1,"x"]}}', "a[3].inner.numbers[1]", "a[3].inner.numbers[1]: expected int, got str"),
        (b'{"inner":{}}', "a[3].inner.numbers", "a[3].inner.numbers is missing"),
        (b'{"by_name":{"k":"x"}}', "a[3].by_name", "a[3].by_name: expected int, got str"),
        (b'{"by_name":{"k":1' + b"0" * 5000 + b"}}", "a[3].by_name", "a[3].by_name: integer value out of range"),
        (b'{"innre":{}}', "a[3].innre", "unknown field 'innre' in a[3]: did you mean 'inner'?"),
        (b"5", "a[3]", "a[3]: expected object, got int"),
    ],
)
def test_places_are_told_from_where_the_value_stands(raw: bytes, param: str, message: str) -> None:
    with pytest.raises(DECODE_ERRORS) as error:
        msgspec.json.decode(raw, type=Outer)
    found = complaint(error.value, "a[3]", Outer.__struct_fields__)
    assert (found.param, found.message) == (param, message)


def test_values_are_shown_short() -> None:
    assert shown("a") == "'a'"
    assert len(shown("a" * 500)) == 80


def test_a_hint_names_the_nearest_only() -> None:
    assert did_you_mean("tempreature", ["temperature", "top_p"]) == ": did you mean 'temperature'?"
    assert did_you_mean("xyz", ["temperature", "top_p"]) == ""
