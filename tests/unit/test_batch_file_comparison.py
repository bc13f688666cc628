"""What `python -m bench run-batch` writes and checks: files of batch lines, and the lines that answer them."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.batch_files import BatchFile, FileRun, check, count_lines, write_file
from bench.processes import MeasurementFailed
from bench.workload import WorkloadShape

SHAPE = WorkloadShape(3, 16, lengths="lognormal")


@pytest.fixture
def file(tmp_path: Path) -> BatchFile:
    return write_file(tmp_path / "in.jsonl", "chat", "a-model", SHAPE, 1)


def asked(file: BatchFile) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in file.path.read_bytes().splitlines()]


def answers(file: BatchFile) -> list[dict[str, Any]]:
    """As a server writes them, in another order."""
    return [
        {
            "custom_id": line["custom_id"],
            "response": {"status_code": 200, "body": {"usage": {"completion_tokens": line["body"]["max_tokens"]}}},
            "error": None,
        }
        for line in reversed(asked(file))
    ]


def verify(file: BatchFile, lines: list[dict[str, Any]]) -> None:
    check(file, iter([msgspec.json.encode(line) for line in lines]))


@pytest.mark.parametrize(("endpoint", "key"), [("chat", "messages"), ("completions", "prompt")])
def test_a_line_asks_for_what_its_endpoint_takes(endpoint: str, key: str, tmp_path: Path) -> None:
    file = write_file(tmp_path / "in.jsonl", endpoint, "a-model", SHAPE, 1)
    lines = asked(file)
    assert {line["url"] for line in lines} == {file.url}
    assert all(line["method"] == "POST" and line["body"]["model"] == "a-model" and line["body"][key] for line in lines)
    assert sum(line["body"]["max_tokens"] for line in lines) == file.tokens
    assert len({line["custom_id"] for line in lines}) == file.items == SHAPE.prompts


def test_answers_in_any_order_pass(file: BatchFile) -> None:
    verify(file, answers(file))


def test_a_line_without_an_answer_is_found(file: BatchFile) -> None:
    with pytest.raises(MeasurementFailed, match="2 of 3 lines were answered"):
        verify(file, answers(file)[1:])


def test_tokens_that_are_missing_are_found(file: BatchFile) -> None:
    lines = answers(file)
    lines[0]["response"]["body"]["usage"]["completion_tokens"] -= 1
    with pytest.raises(MeasurementFailed, match=f"with {file.tokens - 1} tokens for {file.tokens}"):
        verify(file, lines)


@pytest.mark.parametrize("error", ["URL x was used", {"error": {"message": "URL x was used", "code": 400}}])
def test_the_reason_of_a_line_that_failed_is_told(error: Any, file: BatchFile) -> None:
    lines = answers(file)
    lines[1] |= {"response": {"status_code": 400, "body": None}, "error": error}
    with pytest.raises(MeasurementFailed, match="line-1 failed: URL x was used"):
        verify(file, lines)


def test_the_body_tells_the_reason_where_the_line_has_no_error(file: BatchFile) -> None:
    lines = answers(file)
    lines[0]["response"] = {"status_code": 400, "body": {"error": {"message": "too long"}}}
    with pytest.raises(MeasurementFailed, match=r"line-2 failed: .*too long"):
        verify(file, lines)


def test_a_line_counts_once_it_has_its_end(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    assert count_lines(path) == 0
    path.write_bytes(b'{"a": 1}\n{"b":')
    assert count_lines(path) == 1


def test_what_is_left_without_the_start_is_the_work() -> None:
    assert FileRun(whole_s=70, start_s=60, items=5).work_s == 10
