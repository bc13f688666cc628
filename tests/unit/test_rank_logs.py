"""What a rank's own process and the vLLM in it write into its log."""

import json
import logging
import logging.config
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from rank_specs import rank_spec

from engines import logs
from engines.contract.spec import RankSpec
from engines.vllm_engine.variables import choose

PROMPT = "a prompt"


def spec_of(folder: Path, **fields: Any) -> RankSpec:
    return rank_spec(rank=2, incarnation=5, dp_size=3, directory=str(folder), **fields)


@pytest.fixture(autouse=True)
def as_they_were() -> Iterator[None]:
    """All loggers are as they were afterwards."""
    loggers = [logging.getLogger(name) for name in (None, "vllm")]
    before = [(logger.level, logger.handlers[:], logger.propagate) for logger in loggers]
    yield
    for logger, (level, handlers, propagate) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:], logger.propagate = handlers, propagate
    structlog.reset_defaults()


Captured = pytest.CaptureFixture[str]


def fail() -> None:
    raise ValueError(f"cannot read {PROMPT}")


def test_a_rank_writes_facts_with_its_ids(tmp_path: Path, capfd: Captured) -> None:
    logs.configure_rank(spec_of(tmp_path, log_format="json"))
    logs.get_logger(logs.RANK_LOGGER).info("rank_started", pid=7)
    logging.getLogger("a.library").info("chatter")
    logging.getLogger("a.library").warning("odd: %s", 5)
    first, second = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert (first["event"], first["rank"], first["incarnation"], first["pid"]) == ("rank_started", 2, 5, 7)
    assert (second["event"], second["rank"], second["level"]) == ("odd: 5", 2, "warning")


@pytest.mark.parametrize("with_prompts", [False, True])
def test_a_ranks_traceback_quotes_a_prompt_only_when_asked_to(
    with_prompts: bool, tmp_path: Path, capfd: Captured
) -> None:
    logs.configure_rank(spec_of(tmp_path, log_prompts=with_prompts))
    try:
        fail()
    except ValueError:
        logs.get_logger(logs.RANK_LOGGER).exception("attempt_failed", attempt=3)
    text = capfd.readouterr().err
    assert "attempt_failed" in text and "rank=2" in text and "in fail" in text
    assert (PROMPT in text) == with_prompts


def test_a_line_that_cannot_be_rendered_is_lost_and_the_rank_goes_on(tmp_path: Path, capfd: Captured) -> None:
    class Unspeakable:
        def __repr__(self) -> str:
            raise ValueError(PROMPT)

        __str__ = __repr__

    logs.configure_rank(spec_of(tmp_path))
    logging.getLogger("a.library").warning("odd: %s", Unspeakable())
    text = capfd.readouterr().err
    assert text.startswith("a line of a.library could not be rendered: ValueError (message withheld")
    assert PROMPT not in text


# ---------------------------------------------------------------- vLLM's own lines


def test_for_people_vllms_lines_begin_with_the_ranks_ids(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    choose(spec_of(tmp_path), environ)
    assert environ["VLLM_LOGGING_PREFIX"] == "rank=2 incarnation=5 "
    environ = {"VLLM_LOGGING_PREFIX": "mine "}
    choose(spec_of(tmp_path), environ)
    assert environ["VLLM_LOGGING_PREFIX"] == "mine "


def test_as_json_vllms_lines_are_facts_too(tmp_path: Path, capfd: Captured) -> None:
    environ = {"VLLM_LOGGING_LEVEL": "debug"}
    choose(spec_of(tmp_path, log_format="json"), environ)
    config = Path(environ["VLLM_LOGGING_CONFIG_PATH"])
    assert config.parent == tmp_path
    logging.config.dictConfig(json.loads(config.read_bytes()))
    try:
        Path("/none").read_text()
    except OSError:
        logging.getLogger("vllm.v1.engine.core").exception("EngineCore failed after %d steps", 5)
    logging.getLogger("vllm").debug("seen")
    first, second = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert (first["event"], first["logger"]) == ("EngineCore failed after 5 steps", "vllm.v1.engine.core")
    assert (first["rank"], first["incarnation"], first["pid"]) == (2, 5, os.getpid())
    assert "No such file or directory: '/none'" in first["exception"]
    assert second["level"] == "debug"


@pytest.mark.parametrize("chosen", [{"VLLM_CONFIGURE_LOGGING": "0"}, {"VLLM_LOGGING_CONFIG_PATH": "/etc/mine.json"}])
def test_an_operators_choice_for_vllms_logs_stays(chosen: dict[str, str], tmp_path: Path) -> None:
    environ = dict(chosen)
    choose(spec_of(tmp_path, log_format="json"), environ)
    assert {name: value for name, value in environ.items() if "LOGGING" in name} == chosen
    assert not list(tmp_path.iterdir())


def test_vllms_spans_go_where_ours_go_and_say_whose_they_are(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, otlp_traces_endpoint="http://collector/v1/traces")
    environ: dict[str, str] = {}
    choose(spec, environ)
    assert environ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "http/protobuf"
    assert environ["OTEL_SERVICE_NAME"] == "phalanx-rank"
    assert environ["OTEL_RESOURCE_ATTRIBUTES"] == "phalanx.rank=2,phalanx.incarnation=5"
    environ = {"OTEL_SERVICE_NAME": "mine", "OTEL_RESOURCE_ATTRIBUTES": "a=b"}
    choose(spec, environ)
    assert environ["OTEL_SERVICE_NAME"] == "mine"
    assert environ["OTEL_RESOURCE_ATTRIBUTES"] == "a=b,phalanx.rank=2,phalanx.incarnation=5"


@pytest.mark.parametrize("value", ["half a character: \ud800", 2**80, {1: "a number as a key"}, object()])
def test_a_line_of_json_takes_whatever_a_field_holds(value: object, tmp_path: Path, capfd: Captured) -> None:
    logs.configure_rank(spec_of(tmp_path, log_format="json"))
    logs.get_logger(logs.RANK_LOGGER).info("strange", value=value)
    assert json.loads(capfd.readouterr().err)["event"] == "strange"


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError(PROMPT)

    __repr__ = __str__


def test_a_fact_that_cannot_be_rendered_is_lost_and_the_rank_goes_on(tmp_path: Path, capfd: Captured) -> None:
    logs.configure_rank(spec_of(tmp_path, log_format="json"))
    log = logs.get_logger(logs.RANK_LOGGER)
    log.error("failed", exc_info=Unspeakable())
    log.info("odd", value=Unspeakable())
    first, second = capfd.readouterr().err.splitlines()
    assert first.startswith("a line of rank could not be rendered: ValueError (message withheld")
    assert second.startswith("a line of rank could not be rendered: ValueError (message withheld")


def test_a_line_that_cannot_be_written_is_lost_and_the_rank_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/full").open("wb") as full:
        monkeypatch.setattr(logs, "STDERR", full.fileno())
        logs.configure_rank(spec_of(tmp_path))
        logs.get_logger(logs.RANK_LOGGER).info("rank_started")
        logging.getLogger("a.library").warning("odd")


def test_lines_of_several_threads_stay_whole(tmp_path: Path) -> None:
    """Longer than what a pipe takes at once."""
    reading, writing = os.pipe()
    program = """
import logging, sys, threading
from pathlib import Path
from engines import logs
logs.PATIENCE_S = 60
logs.set_up(logs.Rendering("json", with_prompts=False), logging.INFO, logs.write_stderr)
handler = logs.LineHandler()
handler.setFormatter(logs.foreign_formatter(logs.Rendering("json", with_prompts=False)))
logging.basicConfig(level=logging.INFO, handlers=[handler])
def ours():
    for number in range(100):
        logs.get_logger("ours").info("x" * 9000, number=number)
def foreign():
    for number in range(100):
        logging.getLogger("foreign").info("y" * 9000)
threads = [threading.Thread(target=work) for work in (ours, foreign, ours, foreign)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    with subprocess.Popen([sys.executable, "-c", program], stderr=writing):
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            lines = pipe.read().splitlines()
    assert len(lines) == 400
    assert {len(json.loads(line)["event"]) for line in lines} == {9000}
