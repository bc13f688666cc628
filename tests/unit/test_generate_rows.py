"""Rows of JSONL, CSV and lines of text, and the prompts that are made of them."""

from pathlib import Path
from typing import Any

import pytest

from phalanx.generate.errors import RowProblem, UsageProblem
from phalanx.generate.parameters import Parameters
from phalanx.generate.prompts import PromptMaker
from phalanx.generate.rows import CHUNK_ROWS, Format, Row, open_source
from phalanx.generate.template import Template

BOM = b"\xef\xbb\xbf"


def rows_of(folder: Path, fmt: Format, content: bytes) -> list[Row]:
    path = folder / "input"
    path.write_bytes(content)
    return [row for chunk in open_source(path, fmt).chunks() for row in chunk.rows]


def test_a_line_of_jsonl_is_a_row_of_its_number(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, Format.JSONL, BOM + b'{"a": 1}\r\n\n[1]\n{"a": "\xff"}\n{"a": 12345678901234567890123}')
    assert [row.number for row in rows] == [1, 2, 3, 4, 5]
    assert (rows[0].columns, rows[4].columns) == ({"a": 1}, {"a": 12345678901234567890123})
    assert [bool(row.problem) for row in rows] == [False, True, True, True, False]
    assert all(row.problem is None or f"line {row.number} " in row.problem for row in rows)


def test_a_line_of_text_is_a_prompt(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, Format.LINES, b"one\n\xff\n three ")
    assert [row.columns for row in rows] == [{"prompt": "one"}, {}, {"prompt": " three "}]
    assert rows[1].problem == "line 2 is not UTF-8"


def test_a_record_of_csv_is_a_row_however_many_lines_it_has(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, Format.CSV, BOM + b'a,b\n1,"x\ny"\n\n3\n4,\xff\n5,z\n')
    assert [row.columns for row in rows] == [{"a": "1", "b": "x\ny"}, {}, {}, {}, {"a": "5", "b": "z"}]
    assert [row.number for row in rows] == [1, 2, 3, 4, 5]
    assert "line 5" in str(rows[2].problem) and "UTF-8" in str(rows[3].problem)


@pytest.mark.parametrize(("content", "words"), [(b"", "no header"), (b"a,a\n", "'a'"), (b"\xff\n1\n", "UTF-8")])
def test_a_csv_without_usable_columns_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match=words):
        rows_of(tmp_path, Format.CSV, content)


def test_rows_are_numbered_on_from_chunk_to_chunk(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, Format.LINES, b"x\n" * (2 * CHUNK_ROWS + 1))
    assert [row.number for row in rows] == list(range(1, 2 * CHUNK_ROWS + 2))


# ---------------------------------------------------------------- prompts


def item(parameters: dict[str, Any], columns: dict[str, Any]) -> dict[str, Any]:
    return PromptMaker(Parameters(input_format="jsonl", **parameters)).item(Row(7, columns))


def test_a_template_takes_columns_and_doubled_braces() -> None:
    template = Template("{{{a b}}} is {n}, {{n}}")
    assert template.columns == ["a b", "n"]
    assert template.fill({"a b": "x", "n": 1.5}) == "{x} is 1.5, {n}"
    assert Template("{x!r}").columns == ["x!r"]  # no formats: it is a name


@pytest.mark.parametrize("text", ["{", "a } b", "{}", "{a{b}"])
def test_a_template_with_a_stray_brace_is_refused(text: str) -> None:
    with pytest.raises(UsageProblem, match="--template"):
        Template(text)


def test_values_that_are_no_text_stand_in_a_prompt_as_json() -> None:
    columns = {"a": [1, "x"], "b": True}
    assert item({"template": "{a} {b}"}, columns) == {"custom_id": "7", "prompt": '[1,"x"] true'}


def test_messages_come_from_a_column_also_as_text() -> None:
    messages = [{"role": "user", "content": "Hi"}]
    for value in (messages, '[{"role": "user", "content": "Hi"}]'):
        assert item({"messages_column": "m"}, {"m": value}) == {"custom_id": "7", "messages": messages}
    with_system = item({"messages_column": "m", "system": "Be brief."}, {"m": messages})
    assert with_system["messages"] == [{"role": "system", "content": "Be brief."}, *messages]


@pytest.mark.parametrize(
    ("parameters", "columns"),
    [
        ({}, {}),
        ({}, {"prompt": None}),
        ({}, {"prompt": ""}),
        ({"template": "{a}"}, {"b": 1}),
        ({"messages_column": "m"}, {}),
        ({"messages_column": "m"}, {"m": "[oops"}),
        ({"messages_column": "m"}, {"m": []}),
        ({"messages_column": "m"}, {"m": None}),
    ],
)
def test_a_row_without_a_prompt_has_a_problem(parameters: dict[str, Any], columns: dict[str, Any]) -> None:
    with pytest.raises(RowProblem):
        item(parameters, columns)
