"""A batch's input file: its tasks line by line, and everything that is wrong with it, each with its line."""

import asyncio
import json
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.batches.splitting import MAX_DEPTH
from app.batches.turnstile import Turnstile
from app.openai_batches import input_file
from app.openai_batches.input_file import InputFile, Limits
from app.openai_batches.input_line import Expected, Problem, Task, duplicate, read_line

EXPECTED = Expected("/v1/chat/completions", "m")
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
LINE: dict[str, Any] = {"custom_id": "a", "method": "POST", "url": EXPECTED.endpoint, "body": BODY}


def line(**fields: Any) -> bytes:
    """A line with other fields than a good one's; `...` leaves one out."""
    return json.dumps({name: value for name, value in (LINE | fields).items() if value is not ...}).encode()


def read(*pieces: bytes, line_bytes: int = 10_000, tasks: int = 1000) -> tuple[list[Task], list[Problem]]:
    async def come() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def go() -> tuple[list[Task], list[Problem]]:
        reader = InputFile(EXPECTED, Limits(line_bytes, tasks), Turnstile())
        checked = [some async for some in reader.read(come())]
        return [task for some in checked for task in some.tasks], [one for some in checked for one in some.problems]

    return asyncio.run(go())


# ---------------------------------------------------------------- one line


def test_a_task_is_its_custom_id_and_its_body_as_it_came() -> None:
    raw = b' {"url":"/v1/chat/completions", "body": { "x" : 1.50 } ,"method":"POST","custom_id":"\\u00fc"}\r'
    assert read_line(raw, 7, EXPECTED) == Task(7, "ü", b'{ "x" : 1.50 }')


@pytest.mark.parametrize("model", [{}, {"model": None}, {"model": "m"}, {"model": "m", "stream": False}])
def test_a_model_may_be_left_out_or_be_the_one_that_is_served(model: dict[str, Any]) -> None:
    found = read_line(line(body={"prompt": "x"} | model), 1, EXPECTED)
    assert isinstance(found, Task)


@pytest.mark.parametrize(
    ("raw", "code", "param", "said"),
    [
        (b"{", "invalid_json_line", None, "it is not valid JSON"),
        (b"[1]", "invalid_json_line", None, "line 3: it must be an object"),
        (b'"text"', "invalid_json_line", None, "line 3: it must be an object"),
        (b'{"a": "\xff"}', "invalid_json_line", None, "it is not valid UTF-8"),
        (line() + b"}", "invalid_json_line", None, "it is not valid JSON"),
        (b"[" * 100_000, "invalid_json_line", None, "line 3: it must be an object"),
        (line(customid="a"), "unknown_parameter", "customid", "did you mean 'custom_id'?"),
        (line(custom_id=...), "invalid_custom_id", "custom_id", "custom_id is missing"),
        (line(custom_id=7), "invalid_custom_id", "custom_id", "custom_id is 7: it must be a string"),
        (line(custom_id=""), "invalid_custom_id", "custom_id", "custom_id is ''"),
        (line(custom_id="x" * 513), "invalid_custom_id", "custom_id", "1 to 512 characters"),
        (line(custom_id="\ud83d"), "invalid_json_line", None, "line 3: it has half a character"),
        (line(body={"prompt": "\ud83d!"}), "invalid_json_line", None, "line 3: it has half a character"),
        (line(method="GET"), "invalid_method", "method", "method is 'GET': it must be 'POST'"),
        (line(method=...), "invalid_method", "method", "method is missing"),
        (line(url="/v1/completions"), "url_mismatch", "url", "url is '/v1/completions': it must be '/v1/chat/compl"),
        (line(url=None), "url_mismatch", "url", "url is missing"),
        (line(body=...), "invalid_body", "body", "body is missing"),
        (line(body=[BODY]), "invalid_body", "body", "it must be an object"),
        (
            line(body=json.loads('{"a":' * MAX_DEPTH + "{}" + "}" * MAX_DEPTH)),
            "invalid_body",
            "body",
            "nested deeper than 128",
        ),
        (line(body=BODY | {"model": "other"}), "model_mismatch", "body.model", "model is 'other', which is not served"),
        (line(body=BODY | {"model": 5}), "model_mismatch", "body.model", "model is 5"),
        (line(body=BODY | {"stream": True}), "stream_not_supported", "body.stream", "stream is true"),
        (line(body=BODY | {"encoding_format": "bytes"}), "invalid_body", "body.encoding_format", "is 'bytes'"),
        (line(body=BODY | {"stream": 1}), "stream_not_supported", "body.stream", "stream is 1"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(raw: bytes, code: str, param: str | None, said: str) -> None:
    found = read_line(raw, 3, EXPECTED)
    assert isinstance(found, Problem)
    assert (found.code, found.line, found.param) == (code, 3, param)
    assert found.message.startswith("line 3: ") and len(found.message) < 300
    assert said in found.message


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*LINE, "model", "stream", "x"]), inner),
    )
)
def test_whatever_json_a_line_holds_it_is_a_task_or_a_problem(value: object) -> None:
    for raw in (json.dumps(value).encode(), line(body=value), line(custom_id=value), line(url=value)):
        assert isinstance(read_line(raw, 1, EXPECTED), Task | Problem)


@given(st.binary(max_size=50))
def test_whatever_bytes_a_line_holds_it_is_a_task_or_a_problem(raw: bytes) -> None:
    assert isinstance(read_line(raw, 1, EXPECTED), Problem)


def test_a_duplicate_names_its_line() -> None:
    found = duplicate(Task(9, "again", b"{}"))
    assert (found.code, found.line, found.param) == ("duplicate_custom_id", 9, "custom_id")
    assert "'again' stands on an earlier line" in found.message


# ---------------------------------------------------------------- a file


@given(st.lists(st.integers(0, 400), max_size=6))
def test_the_tasks_are_the_same_however_the_file_is_parted(cuts: list[int]) -> None:
    body = b"\xef\xbb\xbf" + b"\n".join([line(custom_id="0"), b"", b"{", b" \t\r", line(custom_id="1")])
    places = [0, *sorted(min(place, len(body)) for place in cuts), len(body)]
    tasks, problems = read(*(body[start:stop] for start, stop in pairwise(places)))
    assert [(task.line, task.custom_id) for task in tasks] == [(1, "0"), (5, "1")]
    assert [(one.line, one.code) for one in problems] == [(3, "invalid_json_line")]


@pytest.mark.parametrize("content", [b"", b"\n\n", b" \r\n\t\n", b"\xef\xbb\xbf\n"])
def test_a_file_without_a_line_is_empty(content: bytes) -> None:
    tasks, (problem,) = read(content)
    assert (tasks, problem.code, problem.line, problem.param) == ([], "empty_file", None, None)


def test_a_line_that_is_too_long_is_a_problem_and_the_rest_is_read() -> None:
    long = line(body=BODY | {"user": "x" * 2000})
    tasks, (problem,) = read(line() + b"\n" + long + b"\n" + line() + b"\n", line_bytes=1000)
    assert [task.line for task in tasks] == [1, 3]
    assert (problem.code, problem.line) == ("line_too_long", 2) and "more than 1000 bytes" in problem.message


def test_too_many_lines_end_the_reading() -> None:
    tasks, problems = read(*[line() + b"\n\n"] * 3, tasks=3)
    assert (len(tasks), problems) == (3, [])
    tasks, (problem,) = read(*[line() + b"\n"] * 3, *[b"{\n"] * 500, tasks=3)
    assert len(tasks) == 3
    assert (problem.code, problem.line) == ("too_many_tasks", None)
    assert "more than 3 lines" in problem.message and "--max-batch-lines" in problem.message


def test_so_many_problems_are_listed_and_no_more_is_read() -> None:
    asked = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal asked
        for _ in range(1000):
            asked += 1
            yield b"{\n" * 30

    async def go() -> int:
        reader = InputFile(EXPECTED, Limits(1000, 10**6), Turnstile())
        return sum([len(some.problems) async for some in reader.read(pieces())])

    assert asyncio.run(go()) == input_file.MAX_PROBLEMS
    assert asked == 4  # pieces
