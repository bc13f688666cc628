"""The space on disk of all spools together: what is kept of bodies until their items run, and of results until they
are read.

Whoever would add to a body's items waits while there is no room. That ends as long as somebody frees some: items run,
and results are read by clients that have sent their whole body. Where nobody does, who waits is refused.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from app.errors import PhalanxError, TooLarge, TryLater
from app.logs import get_logger

logger = get_logger("batches")
RETRY_S = 10.0
MOST_SEGMENTS = 64  # full ones of all spools together: each is an open file
MIN_SEGMENT_BYTES = 64 * 1024
MAX_SEGMENT_BYTES = 1 << 30  # their pieces are found by 32 bits


@dataclass
class _Wait:
    account: "SpoolAccount"
    size: int
    turn: asyncio.Future[None]


class SpoolSpace:
    """Bounds what all accounts have. In turn: what is large is not overtaken by what is small."""

    def __init__(self, limit: int, folder: Path) -> None:
        self._limit = limit
        self._accounts: set[SpoolAccount] = set()
        self._waiting: deque[_Wait] = deque()
        self.folder = folder
        self.segment_bytes = min(MAX_SEGMENT_BYTES, max(MIN_SEGMENT_BYTES, limit // MOST_SEGMENTS))
        self.total = 0

    def open(self) -> "SpoolAccount":
        """For one batch."""
        account = SpoolAccount(self)
        self._accounts.add(account)
        return account

    async def take(self, account: "SpoolAccount", size: int) -> None:
        """Waits until so many bytes more fit. Raises TooLarge or TryLater."""
        if not self._waiting and self.total + size <= self._limit:
            account.add_items(size)
            return
        wait = _Wait(account, size, asyncio.get_running_loop().create_future())
        self._waiting.append(wait)
        self.settle()
        try:
            await wait.turn
        except asyncio.CancelledError:
            if wait.turn.done() and not wait.turn.cancelled() and wait.turn.exception() is None:
                account.give_back_items(size)  # it was let in just then
            self.settle()
            raise

    def close(self, account: "SpoolAccount") -> None:
        """It has nothing any more."""
        self._accounts.discard(account)
        self.settle()

    def settle(self) -> None:
        """Lets in who fits by now, and refuses the first who never will."""
        while self._waiting:
            wait = self._waiting[0]
            if wait.turn.done():
                self._waiting.popleft()
            elif self.total + wait.size <= self._limit:
                wait.account.add_items(wait.size)
                wait.turn.set_result(None)
            elif any(account.frees for account in self._accounts):
                return
            else:
                wait.turn.set_exception(self._refusal(wait))
                if wait.account.size:
                    return  # its owner closes it, which frees that

    def _refusal(self, wait: _Wait) -> PhalanxError:
        own = wait.account.size + wait.size
        if own > self._limit:
            return TooLarge(
                f"{own} bytes of the body and of results that nobody has read would have to be kept, at most "
                f"{self._limit} are for all (--max-spool-bytes): read results while the body is sent, or split it",
                code="body_too_large",
            )
        return TryLater(
            f"{self.total} bytes of bodies and unread results are kept, and there is no room for {wait.size} more "
            f"(--max-spool-bytes {self._limit}): try again in about {RETRY_S:.0f} s",
            status=503,
            code="spool_full",
            retry_after_s=RETRY_S,
        )


class SpoolAccount:
    """What one batch has in its spools."""

    def __init__(self, space: SpoolSpace) -> None:
        self._space = space
        self._is_closed = False
        self._is_body_open = True
        self.items = 0  # bytes
        self.results = 0

    @property
    def space(self) -> SpoolSpace:
        """That it is a part of."""
        return self._space

    @property
    def size(self) -> int:
        """Bytes of both."""
        return self.items + self.results

    @property
    def frees(self) -> bool:
        """Whether some of it will be free without anybody's help. While a client sends its body it may read nothing."""
        return self.items > 0 or (self.results > 0 and not self._is_body_open)

    async def take(self, size: int) -> None:
        """For items; waits until there is room. Raises TooLarge or TryLater."""
        await self._space.take(self, size)

    def add_items(self, size: int) -> None:
        """Items have so many bytes more."""
        if not self._is_closed:
            self.items += size
            self._space.total += size

    def give_back_items(self, size: int) -> None:
        """Items have so many bytes fewer."""
        self.add_items(-size)
        self._space.settle()

    def add_results(self, size: int) -> None:
        """Results are never refused: they count, so that items wait."""
        if not self._is_closed:
            self.results += size
            self._space.total += size

    def give_back_results(self, size: int) -> None:
        """Results have so many bytes fewer."""
        self.add_results(-size)
        self._space.settle()

    def end_body(self) -> None:
        """The body has come whole."""
        self._is_body_open = False
        self._space.settle()

    def close(self) -> None:
        """It is all let go. May be called twice."""
        self._space.total -= self.size
        self.items = self.results = 0
        self._is_closed = True
        self._space.close(self)


def disk_full(error: OSError) -> TryLater:
    """The error of a request whose body the disk does not take."""
    logger.error("spool_failed", reason=error.strerror or str(error))
    return TryLater(
        f"the gateway's disk takes no more of the body ({error.strerror or error}): try again in about "
        f"{RETRY_S:.0f} s; --spool-dir names another folder",
        status=503,
        code="spool_full",
        retry_after_s=RETRY_S,
    )
