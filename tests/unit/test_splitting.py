"""The list of prompts, taken apart: the same entries that a JSON parser sees, and no more work than was asked for."""

import asyncio
import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.batches.splitting import MAX_BESIDE_BYTES, MAX_DEPTH, check_list, split
from app.batches.turnstile import Turnstile
from app.errors import InvalidRequest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


def entries(array: bytes, most: int = 1_000_000, max_prompt_bytes: int = 100) -> list[bytes]:
    return list(asyncio.run(split(memoryview(array), most, max_prompt_bytes, Turnstile())))


@given(st.lists(JSON, min_size=1), st.sampled_from([None, 0, 3, "\t"]), st.booleans())
def test_the_entries_are_those_that_a_parser_sees(
    values: list[Any], indent: int | str | None, ascii_only: bool
) -> None:
    array = json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode()
    found = entries(array)
    assert [bytes(raw) for raw in msgspec.json.decode(array, type=list[msgspec.Raw])] == found
    assert [json.loads(entry) for entry in found] == values


@pytest.mark.parametrize("text", ['\\"', "\\\\", "]", "[", "{}", ",", '\\\\\\"],[', "\\u005d", "é\\n"])
def test_what_looks_like_structure_inside_a_string_is_text(text: str) -> None:
    array = f'["{text}", {{"{text}":["{text}"]}},1]'.encode()
    assert entries(array) == [f'"{text}"'.encode(), f'{{"{text}":["{text}"]}}'.encode(), b"1"]


def test_no_more_are_looked_at_than_asked_for() -> None:
    array = b"[" + b"1," * 3_000_000 + b"1]"
    began = time.process_time()
    assert entries(array, most=10) == [b"1"] * 10
    assert time.process_time() - began < 0.5


def test_others_get_a_turn_meanwhile() -> None:
    async def turns() -> int:
        array = memoryview(b"[" + b'"a",' * 300_000 + b"1]")
        done = asyncio.create_task(split(array, 1_000_000, 100, Turnstile()))
        count = 0
        while not done.done():
            await asyncio.sleep(0)
            count += 1
        return count

    assert asyncio.run(turns()) > 5


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_depth_has_a_bound(opening: bytes, closing: bytes) -> None:
    deepest = opening * MAX_DEPTH + b"1" + closing * MAX_DEPTH
    assert entries(b"[" + deepest + b",2]") == [deepest, b"2"]
    with pytest.raises(InvalidRequest, match=rf"prompts\[1\] is nested deeper than {MAX_DEPTH} levels") as refused:
        entries(b"[0," + opening + deepest + closing + b"]")
    assert refused.value.param == "prompts[1]"


def test_size_has_a_bound() -> None:
    largest = b'"' + b"x" * (MAX_BESIDE_BYTES + 90) + b'"'
    assert entries(b"[" + largest + b",2]", max_prompt_bytes=100) == [largest, b"2"]
    with pytest.raises(InvalidRequest, match=r"prompts\[0\] has more than \d+ bytes .*--max-prompt-bytes") as refused:
        entries(b"[" + largest + b",2]", max_prompt_bytes=10)
    assert refused.value.param == "prompts[0]"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"{}", "expected array, got object"),
        (b'"a"', "expected array, got str"),
        (b"null", "expected array, got null"),
        (b"true", "expected array, got bool"),
        (b"-1", "expected array, got number"),
        (b"[]", "length >= 1"),
        (b"[ \n\t\r ]", "length >= 1"),
    ],
)
def test_what_is_no_list_or_an_empty_one_is_refused(value: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        check_list(memoryview(value))
