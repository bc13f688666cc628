"""Half characters in a body: escapes such as \\ud83d without their other half, as JSON writers make of a cut emoji.

JSON's grammar allows them and its decoder does not, which would refuse the whole body for one prompt. They are made
invalid UTF-8, in place and without a change of length: then whoever reads that prompt refuses it, and it alone.
"""

import re

import msgspec

from app.batches.turnstile import Turnstile
from app.validation import HALF, HALF_CHARACTER, Complaint, complaint

WINDOW_BYTES = 2**20  # searched between two turns of the event loop
MOST = 10_000  # in one body
MOST_BACKSLASHES = 64  # in a row before one
ESCAPE_BYTES = 6

_FIRST = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}")
_SECOND = re.compile(rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}")
# It begins with what is found fast, and leaves most whole pairs out: there may be millions of them. Of those whose
# first half has a second backslash, which may mean that it is none, `_is_lone` decides.
_CANDIDATE = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|[c-fC-F][0-9a-fA-F]{2}(?:(?<!\\u[dD][89abAB]..\\u[dD]...)|(?<=\\\\u[dD][89abAB]..\\u[dD]...)))",
    re.DOTALL,
)


def complaint_of(error: Exception, text: bytes | bytearray, place: str) -> Complaint:
    """What is wrong with a JSON text that is not taken apart any further."""
    found = complaint(error, place)
    if isinstance(error, msgspec.DecodeError) and not isinstance(error, msgspec.ValidationError) and found_in(text):
        return Complaint(found.param, f"{place or 'the body'} has {HALF}")
    return found


async def mark(body: bytearray, turnstile: Turnstile) -> bool:
    """Marks all half characters of a JSON text. False if there is none, or more than one cares to look for."""
    found = 0
    for start in range(0, len(body), WINDOW_BYTES):
        last = start + WINDOW_BYTES
        for match in _CANDIDATE.finditer(body, start, min(last + 2 * ESCAPE_BYTES, len(body))):
            if match.start() >= last or not _is_lone(body, match.start()):
                continue
            body[match.start() : match.end()] = HALF_CHARACTER  # no UTF-8, and as long as the escape
            found += 1
            if found > MOST:
                return False
        await turnstile.pause_when_over()
    return found > 0


def found_in(text: bytes | bytearray) -> bool:
    """Whether a JSON text has one: its decoder says of most that the text was truncated."""
    return any(_is_lone(text, match.start()) for match in _CANDIDATE.finditer(text))


def _is_lone(body: bytes | bytearray, place: int) -> bool:
    """Whether the escape there is one, and the one before it is not its first half."""
    if not _is_escape(body, place):
        return False
    before = body[max(0, place - ESCAPE_BYTES) : place]
    is_second = _SECOND.match(body, place) is not None
    return not (is_second and _FIRST.fullmatch(before) and _is_escape(body, place - ESCAPE_BYTES))


def _is_escape(body: bytes | bytearray, place: int) -> bool:
    """Whether the backslash there begins an escape: an even number of others stands before it."""
    before = body[max(0, place - MOST_BACKSLASHES) : place]
    return (len(before) - len(before.rstrip(b"\\"))) % 2 == 0
