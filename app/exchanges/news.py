"""That more of an answer has come, said to the one who sends it. asyncio.Event serves many who wait, and costs a stream
a seventh of the gateway's time for a token."""

import asyncio


class News:
    """Of one answer."""

    __slots__ = ("_is_there", "_waiter")

    def __init__(self) -> None:
        self._is_there = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """There is some, until it is waited for."""
        self._is_there = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def next(self) -> None:
        """Waits for some, for one at a time."""
        if not self._is_there:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._is_there = False
