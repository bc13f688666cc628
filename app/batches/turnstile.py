"""Long work of many requests on one event loop: a few milliseconds of it in each pass of the loop, in fair turns.

Each giving way by itself is not enough: with three hundred that do, each pass of the loop has three hundred pieces.
"""

import asyncio
import heapq
import itertools
import time

TURN_S = 0.005  # of all such work in one pass of the event loop
WOKEN_AT_ONCE = 32  # for short work, of which much fits into a pass


class Turnstile:
    """Whoever has long work to do enters first, and pauses now and then: between the two the loop is its own."""

    def __init__(self) -> None:
        self._ends: float | None = None  # of this pass's share, once anybody has worked in it
        self._is_pass_due = False
        self._tickets = itertools.count()
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []  # a heap: who came first is next

    async def enter(self) -> None:
        """Returns when it is one's turn."""
        if self._waiting or self._is_over():
            await self._wait()

    async def pause_when_over(self) -> None:
        """Gives the event loop and others their turn, if this pass has had its share."""
        if self._is_over():
            await self._wait()

    async def _wait(self) -> None:
        ticket = next(self._tickets)  # kept for as long as others use up the share before it is one's turn
        while True:
            called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (ticket, called))
            self._schedule_pass()
            await called
            if not self._is_over():
                return

    def _is_over(self) -> bool:
        now = time.monotonic()
        if self._ends is None:
            self._ends = now + TURN_S
            self._schedule_pass()
        return now > self._ends

    def _schedule_pass(self) -> None:
        if not self._is_pass_due:
            self._is_pass_due = True
            asyncio.get_running_loop().call_soon(self._begin_pass)

    def _begin_pass(self) -> None:
        self._is_pass_due = False
        self._ends = None
        woken = 0
        while self._waiting and woken < WOKEN_AT_ONCE:
            _, called = heapq.heappop(self._waiting)
            if not called.done():  # else it was cancelled
                called.set_result(None)
                woken += 1
        if self._waiting:
            self._schedule_pass()
