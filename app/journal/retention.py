"""Removes batches that ended long ago, files whose time is over, and the rows of all that were deleted, whoever has
deleted them."""

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from app.journal.errors import JournalUnavailable, Superseded
from app.logs import get_logger
from engines import tasks

if TYPE_CHECKING:
    from app.journal.journal import Journal

logger = get_logger("journal")
EVERY_S = 300.0
SHORTEST_S = 0.5


class Retention:
    """Batches are kept for `retention_s` after their end, and at most `EVERY_S` or a quarter of that longer."""

    def __init__(self, journal: "Journal", retention_s: float) -> None:
        self._journal = journal
        self._retention_s = retention_s
        self._every_s = max(SHORTEST_S, min(EVERY_S, retention_s / 4))
        self._asked = asyncio.Event()

    async def run(self) -> None:
        """For as long as the service lives."""
        while True:
            self._asked.clear()
            with contextlib.suppress(JournalUnavailable, Superseded):  # the keeper hears of both; the next turn is soon
                await self._remove()
            await tasks.comes_within(self._asked, self._every_s)

    def soon(self) -> None:
        """Does not wait for the next turn."""
        self._asked.set()

    async def _remove(self) -> None:
        removed = await self._journal.delete_ended_before(time.time() - self._retention_s)
        if removed:
            logger.info("batches_removed", batches=removed, retention_s=self._retention_s)
        expired = await self._journal.files.delete_expired()
        if expired:
            logger.info("files_expired", files=expired)
        await self._journal.sweep()
