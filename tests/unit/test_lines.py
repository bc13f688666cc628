"""An NDJSON body's lines: the same however the body is parted, and one that is wrong is one item's error."""

import asyncio
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.batches import lines as lines_module
from app.batches.lines import LineCutter, LineReader, refusal_of
from app.batches.splitting import MAX_DEPTH
from app.batches.turnstile import Turnstile
from app.errors import InvalidRequest, TooLarge
from app.validation import HALF_CHARACTER
from engines.contract.item_errors import ItemErrorCode

LONGEST = 200


def cut(*parts: bytes, longest: int = LONGEST) -> list[bytes | None]:
    cutter = LineCutter(longest)
    return [line for part in parts for line in cutter.take(part)] + cutter.end()


def read_all(body: bytes, longest: int = LONGEST) -> tuple[LineReader, list[bytes]]:
    reader = LineReader(longest, Turnstile())
    return reader, asyncio.run(reader.read(cut(body, longest=longest)))


def read(body: bytes) -> list[bytes]:
    return read_all(body)[1]


# ---------------------------------------------------------------- cutting


@given(st.lists(st.binary(max_size=12).map(lambda data: data.replace(b"x", b"\n"))))
def test_lines_are_the_same_however_the_body_is_parted(parts: list[bytes]) -> None:
    body = b"".join(parts)
    expected = body.split(b"\n")
    assert cut(*parts, longest=len(body) + 1) == (expected if expected[-1] else expected[:-1])


@given(st.lists(st.sampled_from([b"a", b"bb\n", b"\n", b"cccc", b"d" * 9, b"\n\n" + b"e" * 12 + b"\n"])))
def test_a_line_that_is_too_long_is_left_out_and_the_body_goes_on(parts: list[bytes]) -> None:
    whole = cut(*parts, longest=sum(map(len, parts)) + 1)
    assert cut(*parts, longest=6) == [None if line and len(line) > 6 else line for line in whole]


def test_of_a_line_that_is_too_long_nothing_is_kept() -> None:
    cutter = LineCutter(100)
    for _ in range(50):
        assert cutter.take(b"x" * 30) == []
    assert len(cutter._open) <= 100
    assert cutter.take(b'x\n"next"\n') == [None, b'"next"']


# ---------------------------------------------------------------- prompts


def test_each_line_is_an_item_in_the_json_that_it_came_in() -> None:
    body = b'"a"\n[1, 2]\r\n  {"prompt": "\\n"} \n\n \t\r\n"last"'
    assert read(body) == [b'"a"', b"[1, 2]", b'{"prompt": "\\n"}', b'"last"']


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert read(b'\xef\xbb\xbf"a"\n"b"') == [b'"a"', b'"b"']


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'"open', "line 3 is not valid JSON: Input data was truncated"),
        (b'"a" "b"', "line 3 is not valid JSON: JSON is malformed: trailing characters"),
        (b"[" * 3000 + b"]" * 3000, "line 3 is nested too deeply"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), f"line 3 is nested deeper than {MAX_DEPTH} levels"),
        (b'"' + b"x" * 9000 + b'"', "line 3 has more than 8000 bytes (--max-prompt-bytes and 4 MiB more)"),
        (b'{"object": "batch_generation.options"}', "line 3 holds options: they must be on the first line"),
        (rb'"\ud83d \q"', "line 3 is not valid JSON"),
    ],
)
def test_a_broken_line_is_one_items_error_and_names_its_line(line: bytes, said: str) -> None:
    _, items = read_all(b'"a"\n\n' + line + b'\n"b"\n', longest=8000)
    assert [items[0], items[2]] == [b'"a"', b'"b"']
    found = refusal_of(items[1])
    assert found is not None
    assert found.message.startswith(said)
    assert (found.code, found.param) == (ItemErrorCode.INVALID_PROMPT, "line 3")


def test_the_deepest_prompt_and_one_of_many_short_lists_pass() -> None:
    deepest = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    many = b"[" + b",".join([b"[]"] * 2 * MAX_DEPTH) + b"]"
    _, items = read_all(deepest + b"\n" + many, longest=8000)
    assert items == [deepest, many]


def test_half_a_character_is_marked_in_its_own_item() -> None:
    half, whole = read(b'{"custom_id": "x", "prompt": "a \\ud83d b"}\n"\\ud83d\\ude00"')
    assert HALF_CHARACTER in half
    assert refusal_of(half) is None
    assert bytes(msgspec.json.decode(half, type=dict[str, msgspec.Raw])["custom_id"]) == b'"x"'
    assert json.loads(whole) == "\U0001f600"


def test_too_many_items_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "MAX_ITEMS", 3)
    assert len(read(b"1\n\n2\n3\n")) == 3
    with pytest.raises(TooLarge, match="more than 3 prompts") as refused:
        read(b"1\n2\n3\n4\n")
    assert refused.value.code == "batch_too_large"


@pytest.mark.parametrize("body", [b"", b"\n \r\n", b'{"object": "batch_generation.options"}\n'])
def test_a_body_without_prompts_is_refused(body: bytes) -> None:
    reader, items = read_all(body)
    assert items == []
    with pytest.raises(InvalidRequest, match="no prompts"):
        reader.end()


# ---------------------------------------------------------------- options


def test_the_first_line_may_hold_the_batchs_options() -> None:
    body = b'\n{"object": "batch_generation.options", "priority": 3, "sampling_params": {"n": 2}, "stream": true}\n"a"'
    reader, items = read_all(body)
    assert items == [b'"a"']
    assert (reader.options.priority, reader.options.stream) == (3, True)
    assert bytes(reader.options.sampling_params or b"") == b'{"n": 2}'
    assert bytes(reader.options.prompts) == b"[]"


@pytest.mark.parametrize("body", [b'"a"', b'{"prompt": "a"}', b"{broken", b"1" * 300])
def test_without_them_all_defaults_apply(body: bytes) -> None:
    reader, items = read_all(body)
    assert len(items) == 1
    fields: dict[str, Any] = msgspec.structs.asdict(reader.options)
    assert [name for name, value in fields.items() if value is not None and value is not msgspec.UNSET] == ["prompts"]


@pytest.mark.parametrize(
    ("fields", "said", "param"),
    [
        ('"prompts": ["a"]', "unknown field 'prompts': each prompt is a line of its own", "prompts"),
        ('"prompt": "a"', "unknown field 'prompt': each prompt is a line of its own", "prompt"),
        ('"max_tokens": 5', "unknown field 'max_tokens': it belongs in sampling_params", "max_tokens"),
        ('"prioritty": 5', "unknown field 'prioritty': did you mean 'priority'?", "prioritty"),
        ('"timeout_s": -1', "timeout_s: expected", "timeout_s"),
        ('"stream": tru', "line 1 is not valid JSON", "line 1"),
    ],
)
def test_options_that_are_wrong_are_the_requests_error(fields: str, said: str, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(f'{{"object": "batch_generation.options", {fields}}}\n"a"\n'.encode())
    assert refused.value.message.startswith(said)
    assert refused.value.param == param


def test_a_first_line_that_is_something_else_is_the_requests_error() -> None:
    with pytest.raises(InvalidRequest, match=r"object is 'batch_generation\.option' on line 1: it must be"):
        read(b'{"object": "batch_generation.option", "priority": 3}\n"a"\n')


def test_a_prompt_that_speaks_of_options_is_a_prompt() -> None:
    prompt = b'{"prompt": "batch_generation.options"}'
    assert read(b'"a"\n' + prompt) == [b'"a"', prompt]
    assert read(prompt) == [prompt]
