"""The gateway's logs: one event name per fact, ids as fields, to stderr, as JSON lines or for a person to read.

docs/operations.md lists all events. The standard library's loggers, uvicorn's among them, go through the same renderer.
Configure once, in `serve`; start uvicorn with log_config=None, or it puts handlers of its own beside ours.
"""

import logging
import sys
from typing import Any, Literal

import structlog
from structlog.typing import FilteringBoundLogger

from engines import logs

LogFormat = Literal["auto", "json", "console"]

# Silent below these levels: a line for every request, and what we say ourselves.
QUIET = {
    "uvicorn.access": logging.CRITICAL,
    "uvicorn.error": logging.WARNING,
    "httpx": logging.WARNING,
    "alembic": logging.WARNING,
    "python_multipart": logging.CRITICAL,
}


def configure(log_format: LogFormat, level: str, *, with_prompts: bool = False) -> None:
    """Sends all logs of this process to stderr. May be called again, with the same settings."""
    on_terminal = sys.stderr.isatty()
    is_console = log_format == "console" or (log_format == "auto" and on_terminal)
    rendering = logs.Rendering("console" if is_console else "json", with_prompts, colors=on_terminal)
    logs.set_up(rendering, logging.getLevelNamesMapping()[level.upper()], logs.write_stderr)
    handler = logs.LineHandler()
    handler.setFormatter(logs.foreign_formatter(rendering))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name, quiet in QUIET.items():
        logging.getLogger(name).setLevel(quiet)


def get_logger(name: str) -> FilteringBoundLogger:
    """A module's logger: ``log.info("rank_lost", rank=1, reason=...)``."""
    return logs.get_logger(name)


def current_ids() -> dict[str, Any]:  # Any: ids are numbers or words
    """The ids of the request that this task works for: whoever goes on without it keeps them."""
    return structlog.contextvars.get_contextvars()
