"""The first error in a rank's log: why it could not start.

vLLM's processes fail one after another, each because of the one before: a worker, then the engine core, then the front
that says no more than "See root cause above". All print to one log, as lines with their own prefix, as plain text or,
with --log-format json, as facts. What counts is the first traceback of a process that gave up, and in it the exception
that led to the others. Tracebacks that nobody gave up for, such as a plugin's that could not be loaded, come second.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import msgspec

LONGEST_CAUSE = 500  # characters
TRACEBACK = "Traceback (most recent call last):"
GIVING_UP = re.compile(r"failed to start|hit an exception|fatal error|^Process .+:$", re.IGNORECASE)
# What vLLM's other processes, or torchrun, say then: it was printed before, or is the loss of what they waited for.
CONSEQUENCE = re.compile("root cause|^RuntimeError: cancelled$|ChildFailedError", re.IGNORECASE)
DEATH = re.compile(  # without a traceback: of a worker of vLLM's, and of torchrun's, which ends the others by SIGTERM
    r"(Worker|Engine core) proc \S+ died unexpectedly( \(exit code: -?\d+\))?"
    r"|Signal \d+ \(SIG(?!TERM)\w+\) received by PID \d+"
)
LINKS = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
    "This led to:",  # engines/failures.py
)
EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(: .*)?")
ERROR_LINE = re.compile(r"ERROR [\d: -]+\[.+?\] (?P<text>.+)|(?P<crash>(Fatal Python error|terminate called).*)")
COLOR = re.compile(r"\x1b\[[\d;]*m")


@dataclass(frozen=True)
class RootCause:
    """An exception in one line, or what else was said. `is_certain`: a process said that it ends because of it."""

    text: str
    is_certain: bool


class _Fact(msgspec.Struct):
    event: str
    level: str = "info"
    exception: str | None = None


def root_cause(log: str) -> RootCause | None:
    """The first error in what a rank's processes printed in one life; None where none is found."""
    lines = COLOR.sub("", log).splitlines()
    causes = [cause for cause in _causes(lines) if not CONSEQUENCE.search(cause.text)]
    first = next((cause for cause in causes if cause.is_certain), None) or next(iter(causes), None)
    return first or next((RootCause(text, is_certain=False) for text in _error_lines(lines)), None)


def _causes(lines: list[str]) -> Iterator[RootCause]:
    """Tracebacks and sudden deaths, in the order in which they began."""
    for number, line in enumerate(lines):
        if line.endswith(TRACEBACK):
            prefix = line.removesuffix(TRACEBACK)
            before = next((other for other in reversed(lines[:number]) if other.startswith(prefix)), "")
            own = (other.removeprefix(prefix) for other in lines[number + 1 :] if other.startswith(prefix))
            text = _cause_of(own, is_prefixed=bool(prefix))
        elif (fact := _fact(line)) and fact.exception:
            prefix, before = "", fact.event
            text = _cause_of(iter(fact.exception.splitlines()), is_prefixed=False)
        elif death := DEATH.search(line):
            yield RootCause(death[0], is_certain=True)
            continue
        else:
            continue
        if text:
            yield RootCause(text, is_certain=bool(GIVING_UP.search(before.removeprefix(prefix))))


def _cause_of(lines: Iterator[str], *, is_prefixed: bool) -> str:
    """The exceptions at the end of a traceback's frames: the first, and the last that it led to if there are more.

    Without a prefix other processes' lines may stand between its own.
    """
    exceptions: list[str] = []
    in_frames, is_linked = True, False
    for line in lines:
        is_frame = line[:1].isspace() or line == TRACEBACK
        if in_frames:
            if not is_frame and EXCEPTION.fullmatch(line):
                exceptions.append(line)
                in_frames = False
        elif line in LINKS:
            is_linked = True
        elif is_linked:
            in_frames, is_linked = line == TRACEBACK, line != TRACEBACK
        elif line.strip() and line != TRACEBACK and (is_prefixed or is_frame):  # more of its message
            exceptions[-1] += f" {line.strip()}"
        elif line.strip():
            break
    shown = [_shortened(text) for text in (*exceptions[:1], *exceptions[1:][-1:])]
    return "; this led to ".join(shown)


def _error_lines(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if found := ERROR_LINE.search(line):
            yield _shortened(found["text"] or found["crash"])
        elif (fact := _fact(line)) and fact.level in ("error", "critical") and fact.event != "rank_failed":
            yield _shortened(fact.event)


def _fact(line: str) -> _Fact | None:
    if line.startswith("{"):
        with suppress(msgspec.DecodeError):
            return msgspec.json.decode(line, type=_Fact)
    return None


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_CAUSE else f"{text[: LONGEST_CAUSE - 3]}..."
