"""Parquet in and out of `phalanx generate`; what is said where pyarrow is not installed."""

import datetime
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.generate_service import Command, MemoryService


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(tmp_path, MemoryService(), monkeypatch)


def write(path: Path, columns: dict[str, Any], rows_in_group: int = 1000) -> Any:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table(columns)
    parquet.write_table(table, path, row_group_size=rows_in_group)
    return table


def read(path: Path) -> Any:
    from pyarrow import parquet

    return parquet.read_table(path)


def test_without_pyarrow_the_extra_is_named(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (command.folder / "in.parquet").touch()
    done = command("in.parquet", "out.jsonl")
    assert done.exit_code == 2 and "phalanx[parquet]" in done.stderr


def test_columns_keep_their_types(command: Command) -> None:
    import pyarrow

    when = pyarrow.array([datetime.datetime(2026, 1, 1)] * 2500, pyarrow.timestamp("ns"))
    prompts = [None if number == 3 else f"p{number}" for number in range(2500)]
    table = write(
        command.folder / "in.parquet",
        {"id": pyarrow.array(range(2500), pyarrow.int32()), "prompt": prompts, "when": when},
        rows_in_group=700,
    )
    assert command("in.parquet", "out.parquet").exit_code == 1
    found = read(command.folder / "out.parquet")
    assert found.select(table.column_names).equals(table)
    assert found.column("text").to_pylist() == [None if p is None else f"<{p}>" for p in prompts]
    assert [failure["row"] for failure in command.rows("out.parquet.failures.jsonl")] == [4]


def test_messages_of_parquet_become_jsonl(command: Command) -> None:
    messages = [[{"role": "user", "content": f"hi {number}"}] for number in range(3)]
    write(command.folder / "in.parquet", {"m": messages, "raw": [b"\xff"] * 3})
    assert command("in.parquet", "out.jsonl", "--messages-column", "m").exit_code == 0
    assert [(row["m"], row["text"]) for row in command.rows("out.jsonl")] == [
        (m, f"<{m[0]['content']}>") for m in messages
    ]


def test_jsonl_becomes_parquet_and_mixed_columns_become_json(command: Command) -> None:
    command.write("in.jsonl", '{"prompt": "a", "x": 1, "y": 1}', "broken", '{"prompt": "b", "x": 2.5, "y": "z"}')
    assert command("in.jsonl", "out.parquet", "--n", "2").exit_code == 1
    found = read(command.folder / "out.parquet").to_pydict()
    assert (found["x"], found["y"]) == ([1.0, None, 2.5], ["1", None, '"z"'])
    assert found["texts"] == [["<a>"], None, ["<b>"]]
    assert found["status"] == ["ok", "error", "ok"]


def test_a_column_or_a_file_that_is_not_there_is_said_at_once(command: Command) -> None:
    write(command.folder / "in.parquet", {"id": [1]})
    done = command("in.parquet", "out.jsonl")
    assert done.exit_code == 2 and "no column 'prompt'; it has: id" in done.stderr
    command.write("text.parquet", "none")
    done = command("text.parquet", "out.jsonl")
    assert done.exit_code == 2 and "no Parquet file" in done.stderr
