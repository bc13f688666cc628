"""The results of a batch that is streamed: each is kept until the client's connection has taken it, then forgotten.

A client that reads more slowly than the ranks work holds its own batch back, and nobody else's: beyond a window of
bytes that wait for it nothing more is dispatched, until half of the window is free.
"""

import asyncio
from collections import deque
from collections.abc import Iterator

from app.batches.memory import Holding
from app.batches.one_line import as_line
from app.batches.results import Status
from app.batches.sink import Brake, Rest
from engines.contract.protocol import Result


class ResultStream:
    """A ResultSink with one reader. Its bytes count for `holding`."""

    def __init__(self, holding: Holding, window_bytes: int) -> None:
        self._holding = holding
        self._window_bytes = window_bytes
        self._unread: deque[bytes] = deque()
        self._unread_bytes = 0
        self._rest: Iterator[bytes] = iter(())
        self._brake: Brake | None = None
        self._holds_back = False
        self._is_closed = False
        self.news = asyncio.Event()  # there is something to take, or the end has come
        self.is_read = False  # whether all there will ever be has been taken

    def open(self, brake: Brake) -> None:
        """From now on it may hold the batch back: at once, if so many items were refused."""
        self._brake = brake
        self._hold_when_full()

    def put(self, index: int, encoded: bytes, status: Status, result: Result) -> None:
        """Keeps it until it is taken. What runs already is taken in beyond the window, too."""
        line = as_line(encoded)
        self._unread_bytes += len(line)
        self._keep(line)
        self._hold_when_full()

    def close(self, rest: Rest | None) -> None:
        """Results of what is left are made when they are taken: there may be many, and a reader that is slow."""
        self._rest = iter(rest or ())
        self._is_closed = True
        self.news.set()

    def take(self) -> Iterator[bytes]:
        """The lines that are there, those counted in that come while they are taken. One is forgotten with the next."""
        while self._unread:
            line = self._unread.popleft()
            yield line
            self._forget(len(line))
        if self._has_more_elsewhere():
            self.news.clear()
            return
        yield from map(as_line, self._rest)
        self.is_read = self._is_closed
        self.news.clear()

    def release(self) -> None:
        """Forgets everything: the answer has been sent, or will not be. May be called twice."""
        self._unread.clear()
        self._rest = iter(())
        self._holding.close()

    def _keep(self, line: bytes) -> None:
        self._unread.append(line)
        self._holding.add(len(line))
        self.news.set()

    def _has_more_elsewhere(self) -> bool:
        """Whether lines wait that cannot be taken at once. `news` says when they can."""
        return False

    def _hold_when_full(self) -> None:
        if self._brake is not None and not self._holds_back and self._unread_bytes >= self._window_bytes:
            self._holds_back = True
            self._brake.hold()

    def _forget(self, size: int) -> None:
        self._unread_bytes -= size
        self._holding.give_back(size)
        if self._brake is not None and self._holds_back and self._unread_bytes <= self._window_bytes // 2:
            self._holds_back = False
            self._brake.release()
