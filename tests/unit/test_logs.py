"""Logs: what an operator, or the machine that collects them, reads on stderr."""

import asyncio
import datetime
import gc
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from app import logs
from engines.logs import loop_failure_logger


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """Takes our handler away again: it writes to this test's stderr."""
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    structlog.reset_defaults()


def test_every_fact_is_one_json_line(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info")
    logs.get_logger("app.ranks").info("rank_lost", rank=1)
    logs.get_logger("app.ranks").debug("unseen")
    logging.getLogger("uvicorn.error").warning("cannot %s", "bind")
    first, second = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert (first["event"], first["rank"], first["level"], first["logger"]) == ("rank_lost", 1, "info", "app.ranks")
    assert (second["event"], second["level"]) == ("cannot bind", "warning")


def test_a_line_has_its_time_as_utc_with_microseconds(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.configure("json", "info")
    for now in (1_790_000_000_000_001_999, 1_790_000_000_999_999_000, 1_790_000_001_000_000_000, 0):
        monkeypatch.setattr("engines.logs.time.time_ns", lambda now=now: now)
        logs.get_logger("app.ranks").info("rank_lost")
    monkeypatch.undo()
    logging.getLogger("uvicorn.error").warning("of another logger")
    *ours, other = [json.loads(line)["timestamp"] for line in capfd.readouterr().err.splitlines()]
    assert ours == [
        "2026-09-21T14:13:20.000001Z",
        "2026-09-21T14:13:20.999999Z",
        "2026-09-21T14:13:21.000000Z",
        "1970-01-01T00:00:00.000000Z",
    ]
    assert abs(datetime.datetime.fromisoformat(other).timestamp() - time.time()) < 60


PROMPT = "a prompt"  # named where it is used: a traceback quotes the source


def fail_over(value: str) -> None:
    raise ValueError(f"cannot read {value}")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_shows_where_and_what_kind_but_not_the_value(
    log_format: logs.LogFormat, capfd: pytest.CaptureFixture[str]
) -> None:
    for with_prompts in (False, True):
        logs.configure(log_format, "info", with_prompts=with_prompts)
        try:
            fail_over(PROMPT)
        except ValueError:
            logs.get_logger("app").exception("failed")
            logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
        printed = capfd.readouterr().err
        assert printed.count("in fail_over") == 2
        assert printed.count(PROMPT) == (2 if with_prompts else 0)
        assert printed.count("ValueError") == 4  # and the line that raises it


def test_an_exception_stays_on_its_line(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("auto", "info")  # stderr is no terminal here
    try:
        Path("/none").read_text()
    except OSError:
        logs.get_logger("app").exception("failed")
    assert "No such file or directory: '/none'" in json.loads(capfd.readouterr().err)["exception"]


def test_a_task_that_nobody_awaited_is_logged_without_what_it_failed_on(capfd: pytest.CaptureFixture[str]) -> None:
    async def forget() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(loop_failure_logger("server"))
        loop.call_soon(fail_over, PROMPT)
        failing = asyncio.create_task(asyncio.to_thread(fail_over, PROMPT), name="failing")
        await asyncio.wait([failing])
        del failing
        gc.collect()
        await asyncio.sleep(0)

    logs.configure("json", "info")
    asyncio.run(forget())
    printed = capfd.readouterr().err
    facts = [json.loads(line) for line in printed.splitlines()]
    assert [fact["event"] for fact in facts] == ["unhandled_failure"] * 2
    assert [fact["what"] for fact in facts] == ["Exception in callback", "Task exception was never retrieved"]
    assert facts[1]["task"] == "failing"
    assert PROMPT not in printed


def test_requests_are_not_logged(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "debug")
    logging.getLogger("uvicorn.access").info("GET /health")
    assert capfd.readouterr().err == ""


def test_a_person_reads_plain_lines(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("console", "info")
    logs.get_logger("app").warning("rank_slow", rank=3)
    line = capfd.readouterr().err
    assert "rank_slow" in line
    assert "rank=3" in line
