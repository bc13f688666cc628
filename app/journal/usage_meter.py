"""What tenants use outside of stored batches: gathered in memory, and written to the journal every ten seconds.

So an answer waits for no disk, and a gateway that is killed loses ten seconds of these figures at most. Stored batches
count by themselves, in the commits of their results.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from app.journal.days import day_of
from app.journal.errors import JournalError, JournalUnavailable
from app.journal.records import DayUsage
from app.logs import get_logger
from engines import tasks

logger = get_logger("journal")
EVERY_S = 10.0
Write = Callable[[DayUsage], Awaitable[None]]


class UsageMeter:
    """By tenant and day."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._waiting: dict[tuple[str, str], DayUsage] = {}
        self._is_ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, on_failure: tasks.OnFailure) -> None:
        """Begins to write."""
        self._task = tasks.start(self._run(), "usage", on_failure)

    async def stop(self) -> None:
        """Writes what waits, and ends. May be called twice."""
        self._is_ending.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    def add(
        self, tenant: str, *, requests: int = 0, items: int = 0, prompt_tokens: int = 0, completion_tokens: int = 0
    ) -> None:
        """Counts what a tenant has used just now."""
        self._add(DayUsage(tenant, day_of(time.time()), requests, items, prompt_tokens, completion_tokens))

    async def flush(self) -> None:
        """Writes what waits. While the journal is unavailable it goes on waiting."""
        writing, self._waiting = list(self._waiting.values()), {}
        outcomes = await asyncio.gather(*(self._write(used) for used in writing), return_exceptions=True)
        for used, outcome in zip(writing, outcomes, strict=True):
            if isinstance(outcome, JournalUnavailable):  # rarely it was stored all the same, and counts twice then
                self._add(used)
            elif isinstance(outcome, BaseException) and not isinstance(outcome, JournalError):
                raise outcome

    async def _run(self) -> None:
        while not self._is_ending.is_set():
            await tasks.comes_within(self._is_ending, EVERY_S)
            await self.flush()
        if self._waiting:
            lost = self._waiting.values()
            logger.warning("usage_lost", requests=sum(used.requests for used in lost), items=sum(u.items for u in lost))

    def _add(self, used: DayUsage) -> None:
        key = (used.tenant, used.day)
        before = self._waiting.get(key)
        self._waiting[key] = used if before is None else _sum(before, used)


def _sum(one: DayUsage, other: DayUsage) -> DayUsage:
    return DayUsage(
        one.tenant,
        one.day,
        one.requests + other.requests,
        one.items + other.items,
        one.prompt_tokens + other.prompt_tokens,
        one.completion_tokens + other.completion_tokens,
    )
