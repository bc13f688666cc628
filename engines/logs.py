"""One fact, one line: how the gateway and the ranks render their logs, as JSON or for a person to read.

A line's ids are fields, and no exception's message gets into it that may quote a prompt (engines/failures.py). The
standard library's loggers, vLLM's among them, can go through the same renderer.
"""

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, ExcInfo, Processor

from engines.failures import kind, report
from engines.spec import RankSpec

RANK_LOGGER = "rank"
STDERR = 2


def shared_processors() -> list[Processor]:
    """What is added to every line, whoever logs it."""
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def set_up() -> None:
    """Lets structlog's loggers hand their facts to the standard library's handlers. May be called again."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared_processors(),
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def formatter(
    log_format: Literal["json", "console"],
    *,
    with_prompts: bool,
    colors: bool = False,
    ids: Mapping[str, Any] | None = None,  # Any: an id is a number or a word
    with_pid: bool = False,
) -> structlog.stdlib.ProcessorFormatter:
    """A formatter for any handler. `ids` are fields of every line. logging.config.dictConfig can make one, too."""

    def add_ids(_: object, __: str, fact: EventDict) -> EventDict:
        of_process = {"pid": fact["_record"].process} if with_pid else {}
        return {**(ids or {}), **of_process, **fact}

    def render_exception(exc_info: ExcInfo) -> str:
        return report(exc_info[1], with_message=with_prompts)

    def print_exception(out: TextIO, exc_info: ExcInfo) -> None:
        out.write("\n" + render_exception(exc_info))

    rendering: list[Processor]
    if log_format == "console":
        rendering = [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=print_exception)]
    else:
        rendering = [
            structlog.processors.ExceptionRenderer(render_exception),
            structlog.processors.JSONRenderer(_as_json),
        ]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared_processors(),
        processors=[add_ids, structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
    )


def _as_json(fact: EventDict, **_: object) -> str:
    """What JSON does not know is shown as it prints itself."""
    try:
        return msgspec.json.encode(fact, enc_hook=repr).decode()
    except (UnicodeEncodeError, OverflowError, TypeError):  # half a character, a number of over 64 bits, a strange key
        return json.dumps(fact, default=repr)


class LineHandler(logging.Handler):
    """Writes each line to the process's stderr, past sys.stderr: before 0.32 vLLM puts words before what goes there."""

    def emit(self, record: logging.LogRecord) -> None:
        """A line that cannot be rendered or written is lost: the rank goes on."""
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001  whatever a line holds; the standard handler would quote it
            line = f"a line of {record.name} could not be rendered: {kind(error, with_message=False)}"
        with contextlib.suppress(OSError):
            os.write(STDERR, f"{line}\n".encode(errors="backslashreplace"))


def configure_rank(spec: RankSpec) -> None:
    """Sends what a rank's own process has to say, and its libraries' warnings, to its log, with its ids."""
    set_up()
    handler = LineHandler()
    handler.setFormatter(formatter(spec.log_format, with_prompts=spec.log_prompts, ids=spec.ids))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(RANK_LOGGER).setLevel(logging.INFO)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A module's logger: ``log.info("rank_lost", rank=1, reason=...)``."""
    return structlog.stdlib.get_logger(name)


def loop_failure_logger(name: str) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """An event loop's exception handler. asyncio's own would quote the exception and the arguments of callbacks."""

    def log(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        task = context.get("task") or context.get("future")
        what = "Exception in callback" if "callback" in context["message"] else context["message"]
        of_task = {"task": task.get_name()} if isinstance(task, asyncio.Task) else {}
        get_logger(name).error("unhandled_failure", what=what, **of_task, exc_info=context.get("exception"))

    return log
