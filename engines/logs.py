"""One fact, one line: how the gateway and the ranks render their logs, as JSON or for a person to read.

A line's ids are fields, and no exception's message gets into it that may quote a prompt (engines/failures.py). The
standard library's loggers, vLLM's among them, can go through the same renderer.
"""

import asyncio
import contextlib
import json
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, ExcInfo, FilteringBoundLogger, Processor

from engines.contract.spec import RankSpec
from engines.failures import kind, report

RANK_LOGGER = "rank"
STDERR = 2
PATIENCE_S = 0.1  # with whoever reads it


class _Stderr:
    """The process's stderr, and what its reader has made it lose."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a collection of garbage within it may log, too
        self._lost = 0  # lines
        self._is_torn = False  # the last of them was begun

    def write(self, line: bytes) -> None:
        """The line, or what its reader takes of it in time. Raises OSError."""
        if self._lost and self._is_writable(0):
            notice = b'%s{"event":"log_lines_lost","count":%d}\n' % (b"\n" * self._is_torn, self._lost)
            self._lost, self._is_torn = 0, False
            self._put(notice)
        if self._lost or not self._put(line):
            self._lost += 1

    def _put(self, line: bytes) -> bool:
        whole = len(line)
        while line:
            if not self._is_writable(PATIENCE_S):
                self._is_torn = len(line) < whole
                return False
            line = line[os.write(STDERR, line[: select.PIPE_BUF]) :]  # so much a pipe that is writable takes at once
        return True

    def _is_writable(self, wait_s: float) -> bool:
        poll = select.poll()  # one for each call: a signal handler may log in the middle of another's
        poll.register(STDERR, select.POLLOUT)
        return bool(poll.poll(wait_s * 1000))


_stderr = _Stderr()
_second = (0, "")  # the last that a line was written in: since the epoch, and in words


@dataclass(frozen=True)
class Rendering:
    """How lines look. `ids` are fields of every line."""

    log_format: Literal["json", "console"]
    with_prompts: bool  # whether an exception's message may be shown that may quote one
    colors: bool = False
    ids: Mapping[str, Any] | None = None  # Any: an id is a number or a word

    @property
    def processors(self) -> list[Processor]:
        """From a fact to its line."""
        ids = self.ids or {}

        def add_ids(_: object, __: str, fact: EventDict) -> EventDict:
            return {**ids, **fact}

        def render_exception(exc_info: ExcInfo) -> str:
            return report(exc_info[1], with_message=self.with_prompts)

        def print_exception(out: TextIO, exc_info: ExcInfo) -> None:
            out.write("\n" + render_exception(exc_info))

        adding: list[Processor] = [add_ids] if ids else []
        if self.log_format == "console":
            return [*adding, structlog.dev.ConsoleRenderer(colors=self.colors, exception_formatter=print_exception)]
        as_json = structlog.processors.JSONRenderer(_as_json)
        return [*adding, structlog.processors.ExceptionRenderer(render_exception), as_json]


def set_up(rendering: Rendering, level: int, write: Callable[[str], object]) -> None:
    """Lets facts of this level and above go to `write`, line by line, past the standard library: a batch is two lines,
    and there may be thousands a second. A logger that has been used keeps what was set up then."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_logger_name,
            structlog.processors.add_log_level,
            _stamp,
            _rendered(rendering.processors),
        ],
        logger_factory=lambda *names: _Lines(names[0], write),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )


def _stamp(_: object, __: str, fact: EventDict) -> EventDict:
    """Adds the time, as ISO 8601 in UTC with microseconds. Only what changes within a second is worked out anew."""
    global _second  # noqa: PLW0603  what structlog's own does with each line costs a hundredth of a small batch
    now = time.time_ns() // 1000
    seconds, microseconds = divmod(now, 1_000_000)
    second = _second  # other threads log, too
    if second[0] != seconds:
        second = _second = (seconds, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)))
    fact["timestamp"] = f"{second[1]}.{microseconds:06}Z"
    return fact


def _rendered(processors: Sequence[Processor]) -> Callable[["_Lines", str, EventDict], str]:
    """The whole rendering as one processor: a line that cannot be rendered is lost, and the work goes on."""

    def render(logger: _Lines, method: str, fact: EventDict) -> str:
        line: Any = fact  # Any: the last processor makes a string of it
        try:
            for process in processors:
                line = process(logger, method, line)
        except Exception as error:  # noqa: BLE001  whatever a field holds
            return _unrenderable(logger.name, error)
        return str(line)

    return render


def _unrenderable(name: str, error: Exception) -> str:
    return f"a line of {name} could not be rendered: {kind(error, with_message=False)}"


class _Lines:
    """Where structlog's loggers of one name end."""

    def __init__(self, name: str, write: Callable[[str], object]) -> None:
        self.name = name
        self._write = write

    def msg(self, line: str) -> None:
        self._write(f"{line}\n")

    debug = info = warning = error = critical = msg


def foreign_formatter(rendering: Rendering, *, with_pid: bool = False) -> structlog.stdlib.ProcessorFormatter:
    """For the handlers of loggers that are not ours: their lines become facts of the same form."""

    def add_pid(_: object, __: str, fact: EventDict) -> EventDict:
        return {"pid": fact["_record"].process, **fact}

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.add_log_level,
            structlog.stdlib.ExtraAdder(),
            _stamp,
        ],
        processors=[
            *([add_pid] if with_pid else []),
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *rendering.processors,
        ],
    )


def vllm_formatter(ids: Mapping[str, Any]) -> structlog.stdlib.ProcessorFormatter:
    """JSON for vLLM's own lines. What of them must not be seen has been taken out by vllm_engine/withhold.py."""
    return foreign_formatter(Rendering("json", with_prompts=True, ids=ids), with_pid=True)


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
            line = _unrenderable(record.name, error)
        write_stderr(f"{line}\n")


def write_stderr(text: str) -> None:
    """To the process's stderr itself, in one piece, whichever thread calls. What cannot be written is lost.

    So is what nobody reads: a reader that has stopped must not stop the process with it.
    """
    with _stderr.lock, contextlib.suppress(OSError):
        _stderr.write(text.encode(errors="backslashreplace"))


def configure_rank(spec: RankSpec) -> None:
    """Sends what a rank's own process has to say, and its libraries' warnings, to its log, with its ids."""
    rendering = Rendering(spec.log_format, spec.log_prompts, ids=spec.ids)
    set_up(rendering, logging.INFO, write_stderr)
    handler = LineHandler()
    handler.setFormatter(foreign_formatter(rendering))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def get_logger(name: str) -> FilteringBoundLogger:
    """A module's logger: ``log.info("rank_lost", rank=1, reason=...)``."""
    logger: FilteringBoundLogger = structlog.get_logger(name)
    return logger


def loop_failure_logger(name: str) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """An event loop's exception handler. asyncio's own would quote the exception and the arguments of callbacks."""

    def log(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        task = context.get("task") or context.get("future")
        what = "Exception in callback" if "callback" in context["message"] else context["message"]
        of_task = {"task": task.get_name()} if isinstance(task, asyncio.Task) else {}
        get_logger(name).error("unhandled_failure", what=what, **of_task, exc_info=context.get("exception"))

    return log
