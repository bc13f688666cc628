"""The detached batches: taken up when they are accepted and after every start, run, held, and ended, each step durable.

A limited number of each tenant's batches of one priority run at once; the others are queued in the journal. So a
thousand batches cost what a few do, and fairness between tenants, and between the batches that run, is the backlog's.
"""

import asyncio
import contextlib
import contextvars
from collections.abc import Coroutine
from typing import Any

from app.batches.detached.ends import EndWatchers
from app.batches.detached.running import Ending, OpenBatch
from app.batches.detached.starting import RunStarter
from app.batches.detached.states import BatchStates
from app.batches.detached.turns import BatchTurns, Lane, lane_of
from app.batches.runs import Runs
from app.batches.sampling import ParamsRefused
from app.errors import RequestError
from app.journal.errors import JournalUnavailable, NoSuchBatch, Superseded, WrongState
from app.journal.keeper import JournalKeeper
from app.journal.records import StoredBatch
from app.journal.states import ENDED, BatchState
from app.logs import get_logger
from app.validation import DECODE_ERRORS
from engines import tasks

logger = get_logger("batches")
_RUNNABLE = (BatchState.QUEUED, BatchState.IN_PROGRESS)
STOP_TIMEOUT_S = 10.0  # for what is had to become durable when the service ends


class DetachedBatches:
    """All that are open. Made with the gateway; `start` is for when its journal is open."""

    def __init__(
        self,
        keeper: JournalKeeper,
        runs: Runs,
        starter: RunStarter,
        answer_settings: bytes,
        on_failure: tasks.OnFailure,
    ) -> None:
        self._keeper = keeper
        self._runs = runs
        self._starter = starter
        self._states = BatchStates(keeper, answer_settings)
        self._on_failure = on_failure
        self._open: dict[int, OpenBatch] = {}  # by ordinal
        self._turns = BatchTurns()
        self._settling: set[asyncio.Task[None]] = set()
        self.ends = EndWatchers()
        self.is_stopping = asyncio.Event()

    # -- life

    async def start(self) -> None:
        """Takes up what a former gateway has left open."""
        for stored in await self._keeper.journal.open_batches():
            if stored.state is BatchState.CANCELLING:
                self._open[stored.ordinal] = batch = OpenBatch(stored)
                self._settle(batch, Ending(BatchState.CANCELLED, stored.reason))
            else:
                self.take_up(stored)
        if self._open:
            logger.info("batches_taken_up", batches=len(self._open), epoch=self._keeper.journal.epoch)

    def halt(self) -> None:
        """Dispatches nothing more, and waits for nothing that runs: all is there for the next start."""
        self.is_stopping.set()
        for batch in self._open.values():
            batch.forget_timers()
            batch.stop(Ending(BatchState.QUEUED, batch.stored.reason))
            self._drop(batch)
            batch.tell()

    async def stop(self) -> None:
        """The same, and returns when what was had is durable. May be called twice."""
        self.halt()
        living = [batch.life for batch in self._open.values() if batch.life is not None]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await asyncio.gather(*living, *self._settling, return_exceptions=True)
        await tasks.end(*living, *self._settling)

    # -- from the front door

    def take_up(self, stored: StoredBatch) -> OpenBatch:
        """A batch that is sealed, or was open when the gateway started, runs when its turn comes."""
        batch = self._open[stored.ordinal] = OpenBatch(stored)
        self._watch_clock(batch)
        reason = self._states.why_held(stored)
        if reason is not None:
            self._settle(batch, Ending(BatchState.HELD, reason))
        elif batch.is_held:
            self._settle(batch, Ending(BatchState.QUEUED))
        else:
            self._queue(batch)
        return batch

    async def discard(self, stored: StoredBatch) -> None:
        """One that was not sealed is gone, and its key free: now, or as soon as the journal can write."""
        try:
            await self._discard(stored)
        except JournalUnavailable:
            self._own(self._states.persist(lambda: self._discard(stored)), f"{stored.id} is discarded")

    async def _discard(self, stored: StoredBatch) -> None:
        with contextlib.suppress(NoSuchBatch, Superseded):
            try:
                await self._keeper.journal.delete(stored.ordinal)
            except WrongState:  # it was sealed, though the journal could not say so
                self.take_up(await self._keeper.journal.of_ordinal(stored.ordinal))
        self._keeper.sweep_soon()

    def find(self, ordinal: int) -> OpenBatch | None:
        """One that is open."""
        return self._open.get(ordinal)

    async def cancel(self, stored: StoredBatch) -> StoredBatch:
        """Durable before it returns; what runs is given up then. One that has ended stays as it is."""
        cancelled = await self._keeper.journal.request_cancel(stored.ordinal)
        batch = self._open.get(stored.ordinal)
        if batch is not None and cancelled.state is BatchState.CANCELLING:
            self._states.note(batch, cancelled)
            self._settle(batch, Ending(BatchState.CANCELLED))
        return cancelled

    async def resume(
        self, stored: StoredBatch, deadline_at: float | None = None, expires_at: float | None = None
    ) -> StoredBatch:
        """Runs what has no result, or a retryable one, again; a held batch is tried again. Raises WrongState."""
        held = self._open.get(stored.ordinal)
        if held is not None:
            return await self._release(held, deadline_at, expires_at)
        if reason := self._states.difference(stored):
            raise WrongState(f"{stored.id} cannot be resumed here: {reason}")
        resumed = await self._keeper.journal.resume(stored.ordinal, deadline_at=deadline_at, expires_at=expires_at)
        self.take_up(resumed)
        return resumed

    # -- from the ranks

    def hold_all(self, reason: str) -> None:
        """No rank is left: nothing of them runs until `release_all`."""
        if self._states.no_hope == reason:
            return
        self._states.no_hope = reason
        for batch in list(self._open.values()):
            if not batch.is_held and batch.stored.state is not BatchState.CANCELLING:
                self._settle(batch, Ending(BatchState.HELD, reason))

    def release_all(self) -> None:
        """There is a rank again that may come to be ready."""
        if self._states.no_hope is not None:
            self._states.no_hope = None
            for batch in list(self._open.values()):
                if batch.is_held and self._states.why_held(batch.stored) is None:
                    self._settle(batch, Ending(BatchState.QUEUED))

    @property
    def open(self) -> int:
        """Batches that have not ended."""
        return len(self._open)

    @property
    def held(self) -> int:
        """Those of them of which nothing runs until a reason is gone."""
        return sum(batch.is_held for batch in self._open.values())

    # -- turns

    def _queue(self, batch: OpenBatch) -> None:
        if not self.is_stopping.is_set():
            self._turns.wait(batch)
            contextvars.Context().run(self._begin_next, lane_of(batch))  # not as a part of a request

    def _begin_next(self, lane: Lane) -> None:
        while not self.is_stopping.is_set() and (ordinal := self._turns.begin_next(lane)) is not None:
            batch = self._open.get(ordinal)
            if batch is None or batch.life is not None or batch.settling or batch.stored.state not in _RUNNABLE:
                self._turns.end(lane)  # it has ended, or is held, since it began to wait
                continue
            batch.end = asyncio.get_running_loop().create_future()
            batch.life = tasks.start(self._live(batch), f"batch {batch.stored.id}", self._on_failure)

    async def _live(self, batch: OpenBatch) -> None:
        """One batch, from its turn to its end, or until it has to stop."""
        lane = lane_of(batch)
        try:
            with contextlib.suppress(Superseded):  # the keeper has told, and this gateway ends
                await self._become(batch, await self._run(batch))
        finally:
            batch.life = batch.end = batch.run = None
            self._turns.end(lane)
            self._begin_next(lane)

    async def _run(self, batch: OpenBatch) -> Ending:
        """Returns when all results that there are have become durable."""
        assert batch.end is not None  # noqa: S101  set with the task
        stored = await self._states.persist(lambda: self._keeper.journal.of_ordinal(batch.stored.ordinal))
        try:
            run = batch.run = self._starter.begin(stored, batch, self._fail_batch)
        except (ParamsRefused, RequestError, *DECODE_ERRORS) as error:  # the limits are other ones than they were
            return Ending(BatchState.FAILED, f"it cannot run with the settings of now: {error}")
        started = tasks.start(self._mark_started(batch), f"start of {stored.id}", self._on_failure)
        try:
            done = tasks.awaited(run.done.wait(), f"end of {stored.id}")
            waits: list[asyncio.Future[Any]] = [done, batch.end]  # Any: only their ends matter
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            await tasks.end(done)
            ending = batch.end.result() if batch.end.done() else Ending(BatchState.COMPLETED)
            self._drop(batch)
            await run.sink.drained()
            await (started if run.started.is_set() else tasks.end(started))
        except asyncio.CancelledError:
            self._drop(batch)
            await run.sink.abandon()
            raise
        finally:
            await tasks.end(started)
        return ending

    async def _mark_started(self, batch: OpenBatch) -> None:
        """In progress with its first item on a rank."""
        assert batch.run is not None  # noqa: S101  set before
        await batch.run.started.wait()
        batch.mark_begun()
        with contextlib.suppress(WrongState, NoSuchBatch, Superseded):  # it was cancelled just now
            await self._states.persist(lambda: self._states.set(batch, BatchState.IN_PROGRESS, None))

    def _drop(self, batch: OpenBatch) -> None:
        if batch.run is not None:
            self._runs.drop(batch.run)

    def _fail_batch(self, ordinal: int, error: BaseException) -> None:
        if (batch := self._open.get(ordinal)) is not None:
            batch.stop(Ending(BatchState.FAILED, f"its items cannot be read: {error}"))

    # -- states

    def _settle(self, batch: OpenBatch, ending: Ending) -> None:
        """Soon: at once for a batch that does not run, or else when its run has been ended."""
        if batch.stop(ending):
            self._drop(batch)  # now: whoever asks may end all other runs next
            return
        batch.settling += 1
        self._own(self._settled(batch, ending), f"{batch.stored.id} becomes {ending.state}")

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> None:  # Any: a coroutine's
        task = tasks.start(work, name, self._on_failure)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settled(self, batch: OpenBatch, ending: Ending) -> None:
        try:
            with contextlib.suppress(Superseded):
                await self._become(batch, ending)
        finally:
            batch.settling -= 1

    async def _become(self, batch: OpenBatch, ending: Ending) -> None:
        if batch.stored.state in ENDED:
            return
        stats = None if batch.run is None else batch.run.stats.encoded()
        ending = self._states.instead(batch, ending)
        await self._states.persist(lambda: self.ends.before(batch.stored, ending.state))
        state = await self._states.become(batch, ending, stats)
        if state is None or state in ENDED:
            if self._forget(batch) and state is not None:
                self._starter.note_end()
                self.ends.after(batch.stored)
        elif state is BatchState.QUEUED:
            asyncio.get_running_loop().call_soon(self._queue, batch)  # once it has left its place
        batch.tell()

    def _forget(self, batch: OpenBatch) -> bool:
        """It is not open any more. Whether it was."""
        batch.forget_timers()
        batch.stop(Ending(batch.stored.state))
        return self._open.pop(batch.stored.ordinal, None) is batch

    async def _release(self, batch: OpenBatch, deadline_at: float | None, expires_at: float | None) -> StoredBatch:
        stored = batch.stored
        if not batch.is_held:
            raise WrongState(f"{stored.id} is {stored.state}: one that has ended or is held can be resumed")
        if reason := self._states.difference(stored) or self._states.no_hope:
            raise WrongState(f"{stored.id} is held still: {reason}")
        resumed = await self._keeper.journal.resume(stored.ordinal, deadline_at=deadline_at, expires_at=expires_at)
        self._states.note(batch, resumed)
        batch.forget_timers()
        self._watch_clock(batch)
        self._queue(batch)
        return resumed

    def _watch_clock(self, batch: OpenBatch) -> None:
        batch.watch_clock(lambda overdue: self._settle(batch, overdue), self._on_failure)
