"""The states of open batches: each step is durable before it counts, however long the journal takes."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import msgspec

from app.batches.detached.answer_settings import difference
from app.batches.detached.running import Ending, OpenBatch
from app.journal.errors import JournalUnavailable, NoSuchBatch, WrongState
from app.journal.keeper import JournalKeeper
from app.journal.records import StoredBatch
from app.journal.states import ENDED, BatchState
from app.logs import get_logger

logger = get_logger("batches")
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

    async def become(self, batch: OpenBatch, ending: Ending, stats: bytes | None = None) -> BatchState | None:
        """Takes this step, or the one that has to be taken instead. The state then; None: there is no such batch."""
        try:
            await self._become(batch, ending, stats)
        except NoSuchBatch:  # nobody deletes what is open, but whoever can write to the database
            logger.warning("batch_gone", batch=batch.stored.id)
            return None
        stored = batch.stored
        if stored.state is BatchState.HELD:
            logger.warning("batch_held", batch=stored.id, reason=stored.reason)
        elif stored.state in ENDED:
            counts = msgspec.structs.asdict(stored.counts)
            logger.info("detached_batch_ended", batch=stored.id, state=stored.state, reason=stored.reason, **counts)
        return stored.state

    async def _become(self, batch: OpenBatch, ending: Ending, stats: bytes | None) -> None:
        while True:
            ending = self.instead(batch, ending)
            kept = stats if ending.state in ENDED else None
            try:
                await self.persist(partial(self.set, batch, ending.state, ending.reason, kept))
            except WrongState as error:
                logger.warning("batch_state_refused", batch=batch.stored.id, state=ending.state, reason=str(error))
                ending = await self._look_again(batch, ending)
            if batch.stored.state in ENDED:
                return
            if batch.stored.state is ending.state and self.instead(batch, ending) is ending:
                return

    def instead(self, batch: OpenBatch, ending: Ending) -> Ending:
        """What has come up since a step was decided on goes before it: the journal may have taken its time."""
        if batch.stored.state is BatchState.CANCELLING and ending.state is not BatchState.CANCELLED:
            return Ending(BatchState.CANCELLED)  # who cancelled it reads that, though all results have come meanwhile
        if ending.state in ENDED or batch.stored.state in ENDED:
            return ending
        if batch.overdue is not None:
            return batch.overdue
        reason = self.why_held(batch.stored)
        if ending.state is BatchState.HELD and reason is None:
            return Ending(BatchState.QUEUED)
        if ending.state is BatchState.QUEUED and reason is not None:
            return Ending(BatchState.HELD, reason)
        return ending

    async def _look_again(self, batch: OpenBatch, refused: Ending) -> Ending:
        """What is left to do for a batch whose step the journal has refused."""
        known = batch.stored.state
        stored = await self.persist(lambda: self._keeper.journal.of_ordinal(batch.stored.ordinal))
        self.note(batch, stored)
        if stored.state is not known:
            return refused
        return Ending(BatchState.FAILED, f"{stored.unfinished} of its items have no result: resume it to run them")

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
