"""Long work of many requests on one event loop: a few milliseconds of it in each pass of the loop, in fair turns.

Each giving way by itself is not enough: with three hundred that do, each pass of the loop has three hundred pieces.
"""

import asyncio
import time
from types import TracebackType

TURN_S = 0.005  # of all such work in one pass of the event loop


class Turnstile:
    """Lets one in at a time, and nobody more once a pass has had its share."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()  # who waits longest is next
        self._ends: float | None = None  # of this pass's share, once somebody was let in

    @property
    def is_over(self) -> bool:
        """Whether this pass of the event loop has had its share."""
        if self._ends is None:
            self._ends = time.monotonic() + TURN_S
            asyncio.get_running_loop().call_soon(self._begin_pass)
        return time.monotonic() > self._ends

    def turn(self) -> "Turn":
        """For ``async with``."""
        return Turn(self)

    def _begin_pass(self) -> None:
        self._ends = None


class Turn:
    """What one has of the loop: inside, the work is one's own until a pause, which lets the next one in."""

    def __init__(self, turnstile: Turnstile) -> None:
        self._turnstile = turnstile
        self._is_mine = False

    async def __aenter__(self) -> "Turn":
        await self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_mine:
            self._end()

    async def pause_when_over(self) -> None:
        """Gives others and the event loop their turn, if this one has lasted long enough."""
        if self._turnstile.is_over:
            self._end()
            await asyncio.sleep(0)
            await self._begin()

    async def _begin(self) -> None:
        await self._turnstile.lock.acquire()
        self._is_mine = True
        try:
            while self._turnstile.is_over:  # noqa: ASYNC110  others had it in this pass
                await asyncio.sleep(0)
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        self._is_mine = False
        self._turnstile.lock.release()
