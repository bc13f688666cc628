"""Bytes of many small pieces, in order, that wait on disk until they are read: in segments, each a file of its own.

What came last is in memory until there is enough of it to write at once, so that little never goes to a disk. A
segment is let go when all that it holds has been read. Nothing is kept of a piece but four bytes, in its segment.
"""

import asyncio
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from app.batches.spool_file import SpoolFile

WRITE_BYTES = 256 * 1024  # written at once


@dataclass(frozen=True)
class _Place:
    """Where some pieces are. `read` blocks, unless they are in memory all."""

    file: SpoolFile
    start: int
    ends: Sequence[int]
    on_disk: int  # bytes, before those in memory
    in_memory: bytes

    def read(self) -> list[bytes]:
        start = self.start
        found = self.file.read(self.on_disk, start) + self.in_memory if self.on_disk else self.in_memory
        data = memoryview(found)
        return [bytes(data[a - start : b - start]) for a, b in zip((start, *self.ends[:-1]), self.ends, strict=True)]


class _Segment:
    """Pieces one behind the other. The first of them are in the file, the last in memory."""

    def __init__(self, first: int, folder: Path) -> None:
        self.first = first  # the number of its first piece
        self._ends = array("I")
        self._file = SpoolFile(folder)
        self._written = 0
        self._tail = bytearray()

    @property
    def end(self) -> int:
        """The number behind its last piece's."""
        return self.first + len(self._ends)

    @property
    def size(self) -> int:
        return self._written + len(self._tail)

    @property
    def unwritten(self) -> int:
        return len(self._tail)

    def add(self, pieces: Sequence[bytes]) -> None:
        ends = accumulate(map(len, pieces), initial=self.size)
        next(ends)
        self._ends.extend(ends)
        self._tail += b"".join(pieces)

    async def write_out(self) -> None:
        """What comes meanwhile stays in memory. What is being written can be read there."""
        data = bytes(self._tail)
        await asyncio.to_thread(self._file.write, data, self._written)
        self._written += len(data)
        del self._tail[: len(data)]

    def find(self, number: int, limit: int, max_bytes: int) -> _Place:
        """Where pieces are from this one on: at least one, and no more than both bounds allow."""
        index = number - self.first
        start = self._ends[index - 1] if index else 0
        stop = bisect_right(self._ends, start + max_bytes, lo=index, hi=min(index + limit, len(self._ends)))
        ends = self._ends[index : max(stop, index + 1)]
        end, written = ends[-1], self._written
        in_memory = bytes(self._tail[max(0, start - written) : max(0, end - written)])  # it may move to the file soon
        return _Place(self._file, start, ends, max(0, min(end, written) - start), in_memory)

    def close(self) -> None:
        self._file.close()


class SpoolStore:
    """Pieces are numbered from 0. One may add and write, while another reads and frees.

    `give_back` is told of bytes that take up no space any more.
    """

    def __init__(self, folder: Path, segment_bytes: int, give_back: Callable[[int], None]) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._give_back = give_back
        self._segments: list[_Segment] = []
        self.count = 0  # pieces that were ever added

    @property
    def memory_bytes(self) -> int:
        """What is not written yet."""
        return sum(segment.unwritten for segment in self._segments)

    def add(self, pieces: Sequence[bytes]) -> int:
        """The number of the first of them."""
        first = self.count
        if not self._segments or self._segments[-1].size >= self._segment_bytes:
            self._segments.append(_Segment(first, self._folder))
        self._segments[-1].add(pieces)
        self.count += len(pieces)
        return first

    async def write_out(self) -> None:
        """Writes what is worth a write by now. Raises OSError; all of it can still be read then."""
        for segment in list(self._segments):
            is_last = segment is self._segments[-1]
            if segment.unwritten >= (WRITE_BYTES if is_last else 1):
                await segment.write_out()

    async def read(self, number: int, limit: int, max_bytes: int) -> list[bytes]:
        """Pieces from this one on, which must not have been freed: none if there are none, else at least one, at most
        `limit`, and more than one only within `max_bytes`. There may be more behind them. Raises OSError."""
        place = self._find(number, limit, max_bytes)
        if place is None:
            return []
        return await asyncio.to_thread(place.read) if place.on_disk else place.read()

    def read_at_once(self, number: int, limit: int, max_bytes: int) -> list[bytes]:
        """The same for whoever cannot wait: it blocks."""
        place = self._find(number, limit, max_bytes)
        return [] if place is None else place.read()

    def free(self, below: int) -> None:
        """Pieces below this number are not wanted any more."""
        while self._segments and self._segments[0].end <= below:
            self._let_go(self._segments.pop(0))

    def close(self) -> None:
        """Nothing is wanted any more. May be called twice."""
        self.free(self.count)

    def _find(self, number: int, limit: int, max_bytes: int) -> _Place | None:
        if number >= self.count:
            return None
        found = bisect_right(self._segments, number, key=lambda segment: segment.first) - 1
        if found < 0:
            raise LookupError(f"piece {number} was let go")
        return self._segments[found].find(number, limit, max_bytes)

    def _let_go(self, segment: _Segment) -> None:
        segment.close()
        self._give_back(segment.size)
