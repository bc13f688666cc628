"""The journal's part for OpenAI's batches: what their API says of them, beside the run that each of them has.

A part of the journal, with its rules: see `journal.py` for what may be raised, and when something is durable.
"""

import time
from collections.abc import Sequence
from functools import partial

from sqlalchemy import Connection

from app.journal.errors import WrongState
from app.journal.openai_records import NewOpenAIBatch, OpenAIBatchPage, StoredOpenAIBatch
from app.journal.records import NewBatch, NewOutput, Quotas, Sealing, StoredBatch
from app.journal.sql import batches, openai_batches, output_files
from app.journal.sql.store import Read
from app.journal.states import OPENAI_ENDED, OpenAIBatchStatus
from app.journal.writer import Writer

RETENTION_SLICE = 100  # batches


class JournalOpenAIBatches:
    """`ordinal` is what StoredOpenAIBatch says of a batch. Its run has one of its own, for all that `Journal` does."""

    def __init__(self, writer: Writer, read: Read, quotas: Quotas) -> None:
        self._writer = writer
        self._read = read
        self._quotas = quotas

    async def create(self, new: NewOpenAIBatch) -> StoredOpenAIBatch:
        """A batch whose input file is to be read: everybody sees it. Raises QuotaExceeded."""
        return await self._writer.write(lambda db: openai_batches.create(db, new, self._quotas))

    async def begin_run(self, ordinal: int, new: NewBatch) -> StoredBatch:
        """Its run, which receives items as any batch does. A restart removes it, and so does `Journal.delete` until it
        has ended: the batch has none then, and its file is read again. Raises WrongState and NoSuchBatch."""
        return await self._writer.write(partial(self._begin_run, ordinal=ordinal, new=new))

    async def start(self, ordinal: int, sealing: Sealing, outputs: Sequence[NewOutput]) -> StoredOpenAIBatch:
        """All its items are there: the run is queued, the batch is in progress and has its files. Raises WrongState and
        NoSuchBatch."""
        return await self._writer.write(partial(_start, ordinal=ordinal, sealing=sealing, outputs=outputs))

    async def set_status(
        self, ordinal: int, status: OpenAIBatchStatus, *, errors: bytes | None = None
    ) -> StoredOpenAIBatch:
        """What has come of it. `errors` is JSON. At its end, files without a line are gone. Raises WrongState and
        NoSuchBatch."""
        return await self._writer.write(partial(_set_status, ordinal=ordinal, status=status, errors=errors))

    async def get(self, batch_id: str, tenant: str | None) -> StoredOpenAIBatch | None:
        """A batch of a tenant; None for the tenant is an admin, who sees all. None: there is none, or no such one of
        this tenant."""
        return await self._read(lambda db: openai_batches.of_id(db, batch_id, tenant))

    async def list(self, tenant: str | None, *, after: str | None = None, limit: int = 20) -> OpenAIBatchPage:
        """A tenant's batches, or everybody's for None, newest first; `after` is an id."""
        return await self._read(lambda db: _page(db, tenant, after, limit))

    async def run_of(self, batch: StoredOpenAIBatch) -> StoredBatch | None:
        """The run that a batch has; None: it has none, or not any more, as when its input file proves to be wrong."""
        run = batch.run
        return None if run is None else await self._read(lambda db: batches.of_ordinals(db, {run}).get(run))

    async def all_open(self) -> Sequence[StoredOpenAIBatch]:
        """All that have not ended, oldest first."""
        return await self._read(openai_batches.all_open)

    async def delete_ended_before(self, ended_before: float) -> int:
        """Deletes those without a run that ended before a time; any other goes with its run. Returns how many."""
        total = 0
        while found := await self._writer.write(
            lambda db: openai_batches.remove_ended_before(db, ended_before, RETENTION_SLICE)
        ):
            total += found
        return total

    def _begin_run(self, db: Connection, ordinal: int, new: NewBatch) -> StoredBatch:
        openai_batches.check_has_no_run(db, ordinal)
        run = batches.create(db, new, self._quotas)
        openai_batches.give_run(db, ordinal, run.ordinal)
        return run


def _start(db: Connection, ordinal: int, sealing: Sealing, outputs: Sequence[NewOutput]) -> StoredOpenAIBatch:
    batch = openai_batches.check_step(db, ordinal, OpenAIBatchStatus.IN_PROGRESS)
    if batch.run is None:
        raise WrongState(f"{batch.id} has no run: its input file has to be read first")
    run = batches.seal(db, batch.run, sealing)
    output_files.create(db, run, outputs, time.time())
    file_ids = {new.holds: new.id for new in outputs}
    return openai_batches.set_status(db, ordinal, OpenAIBatchStatus.IN_PROGRESS, file_ids=file_ids)


def _set_status(db: Connection, ordinal: int, status: OpenAIBatchStatus, errors: bytes | None) -> StoredOpenAIBatch:
    batch = openai_batches.set_status(db, ordinal, status, errors=errors)
    if batch.run is not None and status in OPENAI_ENDED:
        output_files.remove(db, batch.run, only_empty=True)
    return batch


def _page(db: Connection, tenant: str | None, after: str | None, limit: int) -> OpenAIBatchPage:
    found = openai_batches.newest(db, tenant, after, limit + 1)
    shown = tuple(found[:limit])
    runs = batches.of_ordinals(db, {batch.run for batch in shown if batch.run is not None})
    return OpenAIBatchPage(shown, runs, len(found) > limit)
