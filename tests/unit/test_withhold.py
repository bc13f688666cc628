"""The plugin that keeps what a client sent out of vLLM's logs: vLLM is not needed to see what it takes out."""

import logging
import os
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from engines.vllm_engine import withhold as plugin

CANARY = "canary"


@pytest.fixture(autouse=True)
def factory_as_it_was() -> Iterator[None]:
    before = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(before)


class Sampling:
    """Stands in for vLLM's SamplingParams: all of it would be in a repr."""

    def __init__(self) -> None:
        self.stop = [CANARY]

    def __repr__(self) -> str:
        return f"SamplingParams(stop={self.stop})"


def scheduler_output(**more: Any) -> SimpleNamespace:
    """As vLLM's SchedulerOutput, with a field that no version has."""
    new = SimpleNamespace(
        req_id="17-0a1b2c3d",
        prompt_token_ids=[4711, 4712],
        sampling_params=Sampling(),
        block_ids=([1, 2],),
        num_computed_tokens=0,
        lora_request=None,
        **more,
    )
    return SimpleNamespace(
        scheduled_new_reqs=[new],
        scheduled_cached_reqs=SimpleNamespace(req_ids=["16-ffffffff"], new_token_ids=[[4713]], num_output_tokens=[9]),
        num_scheduled_tokens={"17-0a1b2c3d": 2, "16-ffffffff": 1},
        total_num_scheduled_tokens=3,
        scheduled_spec_decode_tokens={"16-ffffffff": [4714]},
        finished_req_ids=set(),
        what_comes_next=CANARY,
    )


def test_the_dump_keeps_ids_and_counts_and_drops_what_was_sent() -> None:
    text = plugin.dump(scheduler_output(text_that_a_later_vllm_keeps=CANARY))
    for kept in (
        "req_id='17-0a1b2c3d'",
        "prompt_token_ids=<list of 2>",
        "sampling_params=<Sampling>",
        "req_ids=['16-ffffffff']",
        "num_output_tokens=[9]",
        "total_num_scheduled_tokens=3",
        "num_scheduled_tokens={'17-0a1b2c3d': 2, '16-ffffffff': 1}",
        "what_comes_next=<str of 6>",
        "--log-prompts",
    ):
        assert kept in text
    for dropped in (CANARY, "4711", "4713", "4714"):
        assert dropped not in text


def test_the_dump_of_something_unforeseen_is_its_kind() -> None:
    assert plugin.dump(CANARY).startswith("str()")


class Lines(logging.Handler):
    """Collects lines as vLLM's formatter would print them."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def lines() -> Iterator[list[str]]:
    logging.setLogRecordFactory(plugin.withholding(logging.getLogRecordFactory()))
    handler, logger = Lines(), logging.getLogger("vllm")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


@pytest.mark.parametrize(
    ("logger", "message", "args", "line"),
    [
        ("vllm.renderers.hf", "Chat template rejected the request: %s", (ValueError(CANARY),), "(withheld)"),
        ("vllm.entrypoints.chat_utils", "Input prompt: %s", (CANARY,), "Input prompt: (withheld)"),
        (
            "vllm.sampling_params",
            "temperature %s is less than %s, 100%% odd",
            (0.5, 1),
            "is less than (withheld), 100%",
        ),
        ("vllm.v1.structured_output", "no grammar for request %s", ("17-0a1b2c3d",), "for request 17-0a1b2c3d"),
        ("vllm.v1.structured_output.backend", "rejected %.2f of %(x)s", ({"x": CANARY},), "rejected (withheld)"),
        ("vllm.v1.core.sched.scheduler", "grammar rejected tokens %s for request %s.", ([1], "1_7-0a1b2c3d"), "1_7-"),
        ("vllm.v1.engine.core", "Unexpected error pre-processing request %s", ("17",), "request 17"),
        ("vllm.v1.engine.core", "KV cache: %d tokens of %s", (5, "x"), "KV cache: 5 tokens of x"),
        ("vllm.v1.engine.core", "no arguments, 100%", (), "no arguments, 100%"),
    ],
)
def test_lines_about_a_request_keep_their_words_and_ids(
    logger: str, message: str, args: Any, line: str, lines: list[str]
) -> None:
    logging.getLogger(logger).error(message, *args)
    (printed,) = lines
    assert line in printed
    assert CANARY not in printed


def quote(value: str) -> None:
    raise ValueError(f"cannot compile {value}")


def test_an_exception_over_a_request_keeps_its_kind_and_frames(lines: list[str]) -> None:
    for logger in ("vllm.v1.structured_output", "vllm.v1.worker"):
        try:
            quote(CANARY)
        except ValueError:
            logging.getLogger(logger).exception("Failed to compile grammar for request %s", "17-0a1b2c3d")
    of_request, of_engine = lines
    assert "for request 17-0a1b2c3d" in of_request
    assert "in quote" in of_request
    assert "ValueError (message withheld" in of_request
    assert CANARY not in of_request
    assert f"ValueError: cannot compile {CANARY}" in of_engine, "what is no request's is shown as it is"


def test_other_loggers_are_left_alone(lines: list[str], caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("another").warning("failed due to %s", CANARY)
    assert CANARY in caplog.text


def test_without_the_launchers_variable_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(plugin.VARIABLE, raising=False)
    before = logging.getLogRecordFactory()
    plugin.register()
    assert logging.getLogRecordFactory() is before


def test_a_vllm_that_dumps_in_another_way_is_named_in_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything else is still withheld."""
    package = ModuleType("vllm.logging_utils")
    package.dump_input = SimpleNamespace()  # type: ignore[attr-defined]  # it has none of vLLM's functions
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.logging_utils", package)
    monkeypatch.setenv(plugin.VARIABLE, "1")
    monkeypatch.setenv("LLGUIDANCE_LOG_LEVEL", "1")  # as it was, afterwards
    plugin.register()
    assert "has no prepare_object_to_dump" in caplog.text
    logging.getLogger("vllm.renderers").warning("rejected: %s", CANARY)
    assert CANARY not in caplog.text


def test_a_library_that_writes_rejected_tokens_by_itself_is_silenced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    monkeypatch.setenv("LLGUIDANCE_LOG_LEVEL", "2")
    monkeypatch.setenv(plugin.VARIABLE, "1")
    plugin.register()
    assert os.environ["LLGUIDANCE_LOG_LEVEL"] == "0"


def test_vllms_own_dump_is_replaced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("vllm.logging_utils")
    package.dump_input = SimpleNamespace(prepare_object_to_dump=repr)  # type: ignore[attr-defined]  # vLLM's
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.logging_utils", package)
    monkeypatch.setenv(plugin.VARIABLE, "1")
    monkeypatch.setenv("LLGUIDANCE_LOG_LEVEL", "1")  # as it was, afterwards
    plugin.register()
    factory = logging.getLogRecordFactory()
    plugin.register()
    assert package.dump_input.prepare_object_to_dump is plugin.dump
    assert logging.getLogRecordFactory() is factory
