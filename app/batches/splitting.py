"""Takes the list of prompts apart, a few milliseconds at a time and no further than as many as are accepted.

msgspec would do it in one go: with a body of two bytes a prompt that is seconds without a turn for anybody else, and
gigabytes for a list that is then refused for its length. The list must be valid JSON: only its outline is read.
"""

import itertools
import re
from array import array
from collections.abc import Iterable, Iterator

from app.batches.turnstile import Turnstile
from app.errors import InvalidRequest

MAX_DEPTH = 128  # of one prompt with all that belongs to it
MAX_BESIDE_BYTES = 4 * 1024 * 1024  # that a prompt may have beside the prompt itself: parameters, metadata

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_SPACE = rb"[ \t\r\n]*+"


def _value(depth: int) -> bytes:
    """A pattern for a JSON value of at most so many levels. Nothing in it goes back: the time is linear."""
    inside = rb'[^"\[\]{}]++|' + _STRING
    nested = rb"[\[{](?:" + inside + rb")*+[\]}]"
    for _ in range(depth - 1):
        nested = rb"[\[{](?:" + inside + rb"|" + nested + rb")*+[\]}]"
    return _STRING + rb'|[^ \t\r\n,"\[\]{}]++|' + nested


_ENTRY = re.compile(_SPACE + rb"(" + _value(MAX_DEPTH) + rb")" + _SPACE + rb"[,\]]", re.DOTALL)


_KINDS = {b'"': "str", b"{": "object", b"n": "null", b"t": "bool", b"f": "bool"}  # of JSON, by its first byte
_EMPTY = re.compile(rb"\[" + _SPACE + rb"\]")


def check_list(prompts: memoryview) -> None:
    """Raises InvalidRequest when this JSON is no list, or an empty one."""
    first = bytes(prompts[:1])
    if first != b"[":
        raise InvalidRequest(f"prompts: expected array, got {_KINDS.get(first, 'number')}", param="prompts")
    if _EMPTY.fullmatch(prompts):
        raise InvalidRequest("prompts: expected array of length >= 1", param="prompts")


class Entries:
    """The entries of a list, in the JSON that it came in: each is copied when its turn comes, and never all at once."""

    def __init__(self, prompts: memoryview) -> None:
        self._prompts = prompts
        self._bounds = array("Q")  # where each begins and ends

    def add(self, begin: int, end: int) -> None:
        """One more."""
        self._bounds.extend((begin, end))

    def __len__(self) -> int:
        return len(self._bounds) // 2

    def __iter__(self) -> Iterator[bytes]:
        bounds = iter(self._bounds)
        for begin, end in zip(bounds, bounds, strict=True):
            yield bytes(self._prompts[begin:end])


async def split(prompts: memoryview, most: int, max_prompt_bytes: int, turnstile: Turnstile) -> Entries:
    """The entries of a JSON array that has some, no more of them than `most`. Raises InvalidRequest."""
    entries = Entries(prompts)
    place, end, longest = 1, len(prompts), max_prompt_bytes + MAX_BESIDE_BYTES
    while place < end and len(entries) < most:
        found = _ENTRY.match(prompts, place, min(end, place + longest))
        if found is None:
            raise _too_much(len(entries), longest, is_last=place + longest >= end)
        entries.add(*found.span(1))
        place = found.end()
        await turnstile.pause_when_over()
    return entries


def is_too_deep(value: bytes) -> bool:
    """Whether a JSON value without space around it has more levels than a prompt may have."""
    openings = value.count(b"[") + value.count(b"{")  # nearly always too few
    return openings > MAX_DEPTH and _ENTRY.fullmatch(value + b",") is None


def batched(entries: Iterable[bytes], most: int) -> Iterator[list[bytes]]:
    """Entries in lists of so many; the last may be shorter."""
    waiting = iter(entries)
    while some := list(itertools.islice(waiting, most)):
        yield some


def _too_much(index: int, longest: int, *, is_last: bool) -> InvalidRequest:
    where = f"prompts[{index}]"
    large = f"has more than {longest} bytes with all that belongs to it (--max-prompt-bytes and 4 MiB more), or "
    deep = f"is nested deeper than {MAX_DEPTH} levels"
    return InvalidRequest(f"{where} {'' if is_last else large}{deep}", param=where)
