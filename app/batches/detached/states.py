"""The states of open batches: each step is durable before it counts, however long the journal takes."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from app.batches.detached.answer_settings import difference
from app.batches.detached.running import OpenBatch
from app.journal.errors import JournalUnavailable
from app.journal.keeper import JournalKeeper
from app.journal.records import StoredBatch
from app.journal.states import ENDED, BatchState

T = TypeVar("T")
MAX_RESTARTS_WITHOUT_RESULT = 3


class BatchStates:
    """`no_hope` is the reason while no rank can come to be ready."""

    def __init__(self, keeper: JournalKeeper, answer_settings: bytes) -> None:
        self._keeper = keeper
        self._answer_settings = answer_settings
        self.no_hope: str | None = None

    async def persist(self, act: Callable[[], Awaitable[T]]) -> T:
        """Whatever the journal has to do for a batch that was accepted: as soon as it can."""
        while True:
            try:
                return await act()
            except JournalUnavailable:
                await self._keeper.until_available()

    async def set(self, batch: OpenBatch, state: BatchState, reason: str | None, stats: bytes | None = None) -> None:
        """Raises WrongState, NoSuchBatch and JournalUnavailable."""
        if state is not batch.stored.state or state in ENDED:
            ordinal = batch.stored.ordinal
            self.note(batch, await self._keeper.journal.set_state(ordinal, state, reason=reason, stats=stats))

    def note(self, batch: OpenBatch, stored: StoredBatch) -> None:
        """What the journal has now. Whoever waits is told."""
        batch.stored = stored
        batch.tell()

    def why_held(self, stored: StoredBatch) -> str | None:
        """Why nothing of a batch may run; None if it may."""
        if stored.restarts_without_result >= MAX_RESTARTS_WITHOUT_RESULT:
            return (
                f"the gateway was restarted {stored.restarts_without_result} times while this batch ran, without one "
                "new result: it may be what ends the gateway; resume it to try again, or cancel it"
            )
        return self.difference(stored) or self.no_hope

    def difference(self, stored: StoredBatch) -> str | None:
        """Why its answers would be other ones here."""
        return difference(stored.answer_settings, self._answer_settings)
