"""A bound on what waits, in number and in bytes; whoever finds it full waits for his turn."""

import asyncio
from collections import deque


class Room:
    """For one event loop. In turn: what is large is not overtaken by what is small."""

    def __init__(self, number: int, size: int) -> None:
        self._number = number
        self._size = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Waits until there is room for one more of this size, which is at most the whole room's."""
        if not self._waiting and self._fits(size):
            self._add(-1, -size)
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was let in just then
                self.give(size)
            else:
                self._let_in()  # who stands behind it may fit
            raise

    def give(self, size: int) -> None:
        """What was taken has gone."""
        self._add(1, size)
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting:
            size, turn = self._waiting[0]
            if turn.cancelled():
                self._waiting.popleft()
            elif self._fits(size):
                self._waiting.popleft()
                self._add(-1, -size)
                turn.set_result(None)
            else:
                return

    def _fits(self, size: int) -> bool:
        return self._number >= 1 and self._size >= size

    def _add(self, number: int, size: int) -> None:
        self._number += number
        self._size += size
