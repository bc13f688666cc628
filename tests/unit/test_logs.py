"""Logs: what an operator, or the machine that collects them, reads on stderr."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from app import logs


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """Takes our handler away again: it writes to this test's stderr."""
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    structlog.reset_defaults()


def test_every_fact_is_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info")
    logs.get_logger("app.ranks").info("rank_lost", rank=1)
    logs.get_logger("app.ranks").debug("unseen")
    logging.getLogger("uvicorn.error").warning("cannot %s", "bind")
    first, second = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (first["event"], first["rank"], first["level"], first["logger"]) == ("rank_lost", 1, "info", "app.ranks")
    assert (second["event"], second["level"]) == ("cannot bind", "warning")


def test_an_exception_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("auto", "info")  # stderr is no terminal here
    try:
        raise ValueError("why")  # noqa: TRY301
    except ValueError:
        logs.get_logger("app").exception("failed")
    assert "ValueError: why" in json.loads(capsys.readouterr().err)["exception"]


def test_requests_are_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "debug")
    logging.getLogger("uvicorn.access").info("GET /health")
    assert capsys.readouterr().err == ""


def test_a_person_reads_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("console", "info")
    logs.get_logger("app").warning("rank_slow", rank=3)
    line = capsys.readouterr().err
    assert "rank_slow" in line
    assert "rank=3" in line
