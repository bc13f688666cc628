"""All connections of the server: their bounds, how many there are, and whose turn it is."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from app.metrics import Metrics

FAREWELLS = 256  # that are said at once; beyond it connections end without a word
MOST_AHEAD_BYTES = 64 * 1024 * 1024  # of all connections, that were sent ahead of their turn
BEGUN_AT_ONCE = 16  # requests between two turns of the event loop: some milliseconds


class Cut(StrEnum):
    """Why a connection was ended by us."""

    TOO_MANY = "too_many"  # there is no room for one more
    SLOW_HEAD = "slow_head"
    LARGE_HEAD = "large_head"
    AHEAD = "ahead"  # too many requests were sent before the first was answered
    INVALID = "invalid"  # it is not HTTP, or not as anybody in their senses sends it
    UNREAD_BODY = "unread_body"  # the request was answered, and its body still comes
    SLOW_READER = "slow_reader"


@dataclass(frozen=True)
class ConnectionLimits:
    """Bounds of one connection, and of all."""

    max_connections: int
    head_timeout_s: float
    body_timeout_s: float  # for the rest of a body that nobody reads
    send_timeout_s: float


class Connections:
    """All connections of the server."""

    def __init__(self, limits: ConnectionLimits, metrics: Metrics) -> None:
        self.limits = limits
        self.open = 0
        self.ahead_bytes = 0  # that wait to be parsed
        self._arrived: deque[Callable[[], None]] = deque()  # requests that have not begun
        self.count_cut = metrics.watch_connections(lambda: self.open, Cut)

    def begin_soon(self, begin: Callable[[], None]) -> None:
        """Begins a request in its turn: ten thousand that come at once would leave the loop no turn for seconds."""
        self._arrived.append(begin)
        if len(self._arrived) == 1:
            asyncio.get_running_loop().call_soon(self._begin_some)

    def _begin_some(self) -> None:
        try:
            for _ in range(min(BEGUN_AT_ONCE, len(self._arrived))):
                self._arrived.popleft()()
        finally:  # one that cannot begin keeps no other from it
            if self._arrived:
                asyncio.get_running_loop().call_soon(self._begin_some)
