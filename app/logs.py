"""Logs: one event name per fact, ids as fields, to stderr, as JSON lines or for a person to read.

The standard library's loggers, uvicorn's among them, go through the same renderer. Configure once, in `serve`; start
uvicorn with log_config=None, or it puts handlers of its own beside ours.
"""

import logging
import sys
from typing import Literal

import structlog
from structlog.typing import Processor

LogFormat = Literal["auto", "json", "console"]

# Silent below these levels: a line for every request, and what we say ourselves.
QUIET = {"uvicorn.access": logging.CRITICAL, "uvicorn.error": logging.WARNING, "httpx": logging.WARNING}


def configure(log_format: LogFormat, level: str) -> None:
    """Sends all logs of this process to stderr. May be called again."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(log_format)],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name, quiet in QUIET.items():
        logging.getLogger(name).setLevel(quiet)


def _rendering(log_format: LogFormat) -> list[Processor]:
    on_terminal = sys.stderr.isatty()
    if log_format == "console" or (log_format == "auto" and on_terminal):
        plain = structlog.dev.plain_traceback  # without the values of local variables, which may be prompts
        return [structlog.dev.ConsoleRenderer(colors=on_terminal, exception_formatter=plain)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A module's logger: ``log.info("rank_lost", rank=1, reason=...)``."""
    return structlog.stdlib.get_logger(name)
