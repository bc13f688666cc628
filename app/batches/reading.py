"""Bodies that are being read. When the service ends, nobody waits for what they still lack."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class BodyReads:
    """The deadlines of all that are being read."""

    def __init__(self) -> None:
        self._deadlines: set[asyncio.Timeout] = set()
        self._is_over = False

    @asynccontextmanager
    async def until(self, when: float) -> AsyncIterator[asyncio.Timeout]:
        """Inside, a body is being read under a deadline, which `end` brings forward. Raises TimeoutError."""
        if self._is_over:
            when = asyncio.get_running_loop().time()
        async with asyncio.timeout_at(when) as deadline:
            self._deadlines.add(deadline)
            try:
                yield deadline
            finally:
                self._deadlines.discard(deadline)

    def move(self, deadline: asyncio.Timeout, when: float) -> None:
        """Sets a deadline anew, unless all of them are over."""
        if not self._is_over:
            deadline.reschedule(when)

    def end(self) -> None:
        """All of them are over now."""
        self._is_over = True
        for deadline in self._deadlines:
            with contextlib.suppress(RuntimeError):  # it is over just now, and its body's reader has not run yet
                deadline.reschedule(asyncio.get_running_loop().time())
