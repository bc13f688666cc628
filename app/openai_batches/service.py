"""OpenAI's batches: accepted, read into the journal, run as any stored batch is, and taken to their ends.

The run of a batch is a stored batch of its own, so that it waits, is held and survives restarts as one. Here is what
OpenAI's API adds: a status of its own, whose every step has a time, and files.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from app.batches.acceptance import priority_of_key
from app.batches.availability import Availability
from app.batches.detached.batches import DetachedBatches
from app.batches.detached.sink import MAX_PUT_RESULTS
from app.batches.record import new_batch_id
from app.batches.results import Status
from app.batches.turnstile import Turnstile
from app.errors import InvalidRequest
from app.files.names import BATCH
from app.journal.errors import JournalUnavailable, NoSuchBatch, Superseded, WrongState
from app.journal.keeper import JournalKeeper
from app.journal.openai_records import NewOpenAIBatch, StoredOpenAIBatch
from app.journal.records import NewBatch, NewResult, StoredBatch
from app.journal.states import ENDED, BatchKind, BatchState, OpenAIBatchStatus, ResultStatus
from app.keys.ring import Caller, KeyRing
from app.logs import get_logger
from app.openai_batches.creation import CreateBatch, window_s
from app.openai_batches.input_file import Limits
from app.openai_batches.lines import LineOptions
from app.openai_batches.output_line import LineError, unanswered
from app.openai_batches.validation import Validation, read_task
from app.settings.declaration import Settings
from engines import tasks

logger = get_logger("batches")
T = TypeVar("T")
_STATUS = {
    BatchState.COMPLETED: OpenAIBatchStatus.COMPLETED,
    BatchState.CANCELLED: OpenAIBatchStatus.CANCELLED,
    BatchState.EXPIRED: OpenAIBatchStatus.EXPIRED,
    BatchState.FAILED: OpenAIBatchStatus.FAILED,
}
# What the lines of a batch that ends so have, if they had no answer: their result's status, OpenAI's code, and why.
_REST: dict[BatchState, tuple[Status, str, str]] = {
    BatchState.CANCELLED: ("cancelled", "batch_cancelled", "the batch was cancelled before this line was answered"),
    BatchState.EXPIRED: ("timeout", "batch_expired", "the completion window was over before this line was answered"),
    BatchState.FAILED: ("error", "batch_failed", "the batch failed before this line was answered"),
}


class OpenAIBatches:
    """All that are open. `start` is for when the journal is open, and the detached batches have been taken up."""

    def __init__(
        self,
        settings: Settings,
        keeper: JournalKeeper,
        batches: DetachedBatches,
        availability: Availability,
        keys: KeyRing | None,
        answer_settings: bytes,
        on_failure: tasks.OnFailure,
    ) -> None:
        self._settings = settings
        self._keeper = keeper
        self._batches = batches
        self._availability = availability
        self._keys = keys
        self._answer_settings = answer_settings
        self._on_failure = on_failure
        self._turnstile = Turnstile()
        self._of_run: dict[int, StoredOpenAIBatch] = {}  # by the ordinals of their runs
        self._working: set[asyncio.Task[None]] = set()
        batches.ends.watch(BatchKind.OPENAI, self)

    # -- life

    async def start(self) -> None:
        """Goes on where a former gateway has ended."""
        for batch in await self._keeper.journal.openai_batches.all_open():
            if batch.status is OpenAIBatchStatus.VALIDATING:
                self._own(self._validate(batch), f"{batch.id} is read")
            elif batch.run is None:
                self._own(self._end(batch, OpenAIBatchStatus.CANCELLED), f"{batch.id} is cancelled")
            else:
                self._of_run[batch.run] = batch
                run = await self._keeper.journal.of_ordinal(batch.run)
                if run.state in ENDED:
                    self.after_end(run)

    async def stop(self) -> None:
        """What is being read is read again after the next start. May be called twice."""
        await tasks.end(*self._working)

    # -- from the front door

    async def create(self, asked: CreateBatch, caller: Caller) -> StoredOpenAIBatch:
        """Durable when it returns; its input file is read then. Raises RequestError, and what the journal does."""
        self._availability.check_open()
        file = await self._keeper.journal.files.get(asked.input_file_id, caller.sees)
        if file is None:
            raise InvalidRequest(
                f"there is no file {asked.input_file_id[:100]!r}: upload it to /v1/files first", param="input_file_id"
            )
        if file.purpose != BATCH:
            raise InvalidRequest(
                f"file {file.id!r} is for {file.purpose!r}: upload it with purpose=batch", param="input_file_id"
            )
        now = time.time()
        batch = await self._keeper.journal.openai_batches.create(
            NewOpenAIBatch(
                id=f"batch_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}",
                tenant=caller.tenant,
                key_id=caller.key.id if caller.key else None,
                endpoint=asked.endpoint,
                input_file_id=file.id,
                completion_window=asked.completion_window,
                metadata=msgspec.json.encode(asked.metadata) if asked.metadata else None,
                output_kept_s=asked.output_expires_after.seconds if asked.output_expires_after else None,
                created_at=now,
                expires_at=now + window_s(asked.completion_window),
            )
        )
        self._own(self._validate(batch), f"{batch.id} is read")
        return batch

    async def cancel(self, batch: StoredOpenAIBatch) -> StoredOpenAIBatch:
        """Durable before it returns; one that has ended stays as it is."""
        try:
            cancelled = await self._keeper.journal.openai_batches.set_status(
                batch.ordinal, OpenAIBatchStatus.CANCELLING
            )
        except WrongState:
            return await self.now(batch)
        run = await self._keeper.journal.openai_batches.run_of(cancelled)
        if run is not None:
            with contextlib.suppress(NoSuchBatch):  # its file was being read, and whoever reads it has removed the run
                await self._batches.cancel(run)
        return cancelled

    async def resume(self, batch: StoredOpenAIBatch) -> StoredOpenAIBatch:
        """One that is held is tried again. Raises WrongState."""
        run = None if batch.run is None else await self._keeper.journal.of_ordinal(batch.run)
        if run is None or run.state is not BatchState.HELD:
            raise WrongState(f"{batch.id} is {batch.status}, and is not held: only one that is held can be resumed")
        await self._batches.resume(run)
        return await self.now(batch)

    async def now(self, batch: StoredOpenAIBatch) -> StoredOpenAIBatch:
        """The batch as it is. Raises NoSuchBatch."""
        found = await self._keeper.journal.openai_batches.get(batch.id, None)
        if found is None:
            raise NoSuchBatch(f"{batch.id} has been removed")
        return found

    # -- from its run

    async def before_end(self, stored: StoredBatch, state: BatchState) -> None:
        """Every line that has no answer gets one that says so."""
        if state not in _REST:
            return
        status, code, message = _REST[state]
        while items := await self._keeper.journal.unfinished_items(stored.ordinal, limit=MAX_PUT_RESULTS):
            rest = [
                NewResult(
                    index=item.index,
                    status=ResultStatus(status),
                    body=unanswered(read_task(item.body).custom_id, LineError(code, message)),
                    retryable=False,
                )
                for item in items
            ]
            await self._keeper.journal.put_results(stored.ordinal, rest)

    def after_end(self, stored: StoredBatch) -> None:
        """Its batch ends as it has."""
        batch = self._of_run.pop(stored.ordinal, None)
        if batch is not None:
            self._own(self._end(batch, _STATUS[stored.state], finalizes=True), f"{batch.id} ends")

    # -- steps

    async def _validate(self, batch: StoredOpenAIBatch) -> None:
        key = self._keys.of_id(batch.key_id) if self._keys is not None and batch.key_id else None
        run = NewBatch(
            id=new_batch_id(),
            tenant=batch.tenant,
            key_id=batch.key_id,
            model=self._settings.public_name,
            priority=priority_of_key(key),
            created_at=time.time(),
            answer_settings=self._answer_settings,
            options=LineOptions(batch.endpoint).encode(),
            kind=BatchKind.OPENAI,
        )
        limits = Limits(line_bytes=self._settings.max_body_bytes, tasks=self._settings.max_batch_lines)
        validation = Validation(self._keeper.journal, batch, run, limits)
        batch = await self._persist(lambda: validation.validate(self._turnstile))
        logger.info("openai_batch_read", batch=batch.id, status=str(batch.status))
        if batch.status is OpenAIBatchStatus.CANCELLING:
            await self._end(batch, OpenAIBatchStatus.CANCELLED)
        elif batch.status is OpenAIBatchStatus.IN_PROGRESS and batch.run is not None:
            self._of_run[batch.run] = batch
            self._batches.take_up(await self._keeper.journal.of_ordinal(batch.run))

    async def _end(self, batch: StoredOpenAIBatch, status: OpenAIBatchStatus, *, finalizes: bool = False) -> None:
        journal = self._keeper.journal.openai_batches
        if finalizes and status is OpenAIBatchStatus.COMPLETED:
            await self._step(lambda: journal.set_status(batch.ordinal, OpenAIBatchStatus.FINALIZING))
        await self._step(lambda: journal.set_status(batch.ordinal, status))
        logger.info("openai_batch_ended", batch=batch.id, status=str(status))

    async def _step(self, act: Callable[[], Awaitable[object]]) -> None:
        try:
            await self._persist(act)
        except WrongState as error:  # it has ended otherwise
            logger.info("openai_batch_step_refused", reason=str(error))

    async def _persist(self, act: Callable[[], Awaitable[T]]) -> T:
        """As soon as the journal can."""
        while True:
            try:
                return await act()
            except JournalUnavailable:
                await self._keeper.until_available()

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> None:  # Any: a coroutine's
        task = tasks.start(self._suppressed(work), name, self._on_failure)
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    @staticmethod
    async def _suppressed(work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except (NoSuchBatch, Superseded) as error:  # whoever removed it, or took the journal over, knows
            logger.info("openai_batch_gone", reason=str(error))
