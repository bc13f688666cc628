"""The journal: what batches, items, results and files there are, kept so that neither a crash nor a loss of
power loses any.

Every operation that writes returns when that is durable. No SQL here, and no database's package: those are in
app/journal/sql. Made by `app/journal/opening.py`.

Any operation may raise JournalUnavailable; one that writes may raise Superseded, too. Others are named where they are.
"""

import asyncio
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from app.journal.errors import JournalUnavailable
from app.journal.files import JournalFiles
from app.journal.folder import DataFolder
from app.journal.health import OnCommit, OnHealth
from app.journal.openai_batches import JournalOpenAIBatches
from app.journal.records import (
    Appended,
    BatchPage,
    DayUsage,
    NewBatch,
    NewItem,
    NewResult,
    PutReport,
    Quotas,
    Sealing,
    Sizes,
    StoredBatch,
    StoredItem,
    StoredResult,
)
from app.journal.sql import batches, holdings, items, removal, results, resuming
from app.journal.sql.engines import READERS
from app.journal.sql.results import Put
from app.journal.sql.store import Store
from app.journal.states import BatchState
from app.journal.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

T = TypeVar("T")
RESUME_SLICE = 5000  # items
RETENTION_SLICE = 100  # batches
WINDOW_BYTES = 8 * 1024**2
EACH_RESULT_BYTES = 200  # beside its body, for the bound on what waits


class Journal:
    """One gateway's hold on the store, in its event loop. `ordinal` is what StoredBatch says of a batch."""

    def __init__(
        self, store: Store, folder: DataFolder | None, quotas: Quotas, on_health: OnHealth, on_commit: OnCommit
    ) -> None:
        self._store = store
        self._folder = folder
        self._quotas = quotas
        self._is_closed = False
        self._writer = Writer(store, on_health, on_commit)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="journal reader")
        self.files = JournalFiles(store.place, self._writer, self._read, quotas)
        self.openai_batches = JournalOpenAIBatches(self._writer, self._read, quotas)
        self._writer.start()

    @property
    def epoch(self) -> int:
        """Which life of a gateway this is, counted over all that have used the journal."""
        return self._store.epoch

    @property
    def commits(self) -> int:
        """Made so far: many writes are one."""
        return self._writer.commits

    async def close(self) -> None:
        """Writes what waits, and lets others use the journal. May be called twice."""
        self._is_closed = True
        await self._writer.close()
        await asyncio.to_thread(self._readers.shutdown)
        self._store.disconnect()  # what the last reads have connected
        if self._folder is not None:
            self._folder.release()

    # -- a batch comes in

    async def create(self, new: NewBatch) -> StoredBatch:
        """A batch that receives items. Nobody sees it until it is sealed, and a restart removes it.

        Raises KeyInUse and QuotaExceeded.
        """
        return await self._writer.write(lambda db: batches.create(db, new, self._quotas))

    async def append(self, ordinal: int, new: Sequence[NewItem]) -> Appended:
        """Items of a batch that receives them, behind those that are there; best some hundred at a time.

        Items with a custom_id that stands earlier in the batch are stored, too, and named in the answer. Not to be
        tried again after JournalUnavailable: discard the batch. Raises WrongState, NoSuchBatch and QuotaExceeded.
        """
        size = sum(len(item.body) for item in new)
        return await self._writer.write(lambda db: items.append(db, ordinal, new, self._quotas), size)

    async def seal(self, ordinal: int, sealing: Sealing | None = None) -> StoredBatch:
        """All items are there: the batch is queued. Raises WrongState and NoSuchBatch."""
        return await self._writer.write(lambda db: batches.seal(db, ordinal, sealing or Sealing()))

    # -- it runs

    async def set_state(
        self, ordinal: int, state: BatchState, *, reason: str | None = None, stats: bytes | None = None
    ) -> StoredBatch:
        """What has come of it. At an end other than `completed`, items without a result count as cancelled, timed out
        or failed, and get no rows. `reason` replaces the one before. Raises WrongState and NoSuchBatch.
        """
        return await self._writer.write(lambda db: batches.set_state(db, ordinal, state, reason, stats))

    async def request_cancel(self, ordinal: int) -> StoredBatch:
        """An open batch is `cancelling` from now on; others are as they were. Raises NoSuchBatch."""
        return await self._writer.write(lambda db: batches.request_cancel(db, ordinal))

    async def put_results(self, ordinal: int, new: Sequence[NewResult]) -> PutReport:
        """Stores results of a batch that is open or receives items, once for each item. Safe to try again after
        JournalUnavailable: those that were stored are ignored. Raises WrongState and NoSuchBatch.
        """
        size = sum(len(result.body) + EACH_RESULT_BYTES for result in new)
        return await self._writer.put(Put(ordinal, new), size)

    async def unfinished_items(
        self, ordinal: int, after: int = -1, limit: int = 1000, max_bytes: int = WINDOW_BYTES
    ) -> list[StoredItem]:
        """Items without a durable result, by index, above `after`: `limit` of them at most, and no more bytes of
        bodies than `max_bytes`, but one in any case. An empty list: there are no more.
        """
        return await self._read(lambda db: items.unfinished(db, ordinal, after, limit, max_bytes))

    async def open_batches(self) -> list[StoredBatch]:
        """All that have not ended, oldest first. After a start, `restarts_without_result` of those that ran is higher
        by one than before; a new result makes it 0."""
        return await self._read(batches.all_open)

    async def resume(
        self, ordinal: int, *, deadline_at: float | None = None, expires_at: float | None = None
    ) -> StoredBatch:
        """A batch that has ended runs again what has no result or a retryable one; the latter are removed, slice by
        slice. One that is held goes on as it is. Raises WrongState and NoSuchBatch.
        """
        batch = await self._read(lambda db: batches.of_ordinal(db, ordinal))
        for first in range(0, batch.size if batch.state is not BatchState.HELD else 0, RESUME_SLICE):
            await self._writer.write(partial(resuming.take_back, ordinal=ordinal, first=first, rows=RESUME_SLICE))
        return await self._writer.write(lambda db: batches.reopen(db, ordinal, deadline_at, expires_at))

    # -- it is asked for

    async def get(self, batch_id: str, tenant: str | None) -> StoredBatch | None:
        """A batch of a tenant; None for the tenant is an admin, who sees all. None: there is none, or no such one of
        this tenant."""
        return await self._read(lambda db: batches.of_id(db, batch_id, tenant))

    async def of_ordinal(self, ordinal: int) -> StoredBatch:
        """A batch as it is now. Raises NoSuchBatch."""
        return await self._read(lambda db: batches.of_ordinal(db, ordinal))

    async def find_by_key(self, tenant: str, key: str) -> StoredBatch | None:
        """The batch that an idempotency key stands for, until 24 h after its end; also while it receives items."""
        return await self._read(lambda db: batches.of_key(db, tenant, key, time.time()))

    async def list_batches(
        self,
        tenant: str | None,
        *,
        states: Collection[BatchState] = (),
        before: int | None = None,
        limit: int = 20,
    ) -> BatchPage:
        """A tenant's batches, or everybody's for None, newest first. `before` is the former page's."""
        return await self._read(lambda db: batches.page(db, tenant, states, before, limit))

    async def results_after(
        self, ordinal: int, seq: int = 0, limit: int = 1000, max_bytes: int = WINDOW_BYTES
    ) -> list[StoredResult]:
        """Results above a number, in the order in which they became durable; bounded as `unfinished_items` is."""
        return await self._read(lambda db: results.after(db, ordinal, seq, limit, max_bytes))

    async def results_by_index(
        self, ordinal: int, after: int = -1, limit: int = 1000, max_bytes: int = WINDOW_BYTES
    ) -> list[StoredResult]:
        """Results of items above an index, in the order of the items; bounded as `unfinished_items` is."""
        return await self._read(lambda db: results.by_index(db, ordinal, after, limit, max_bytes))

    # -- it goes

    async def delete(self, ordinal: int) -> None:
        """A batch that has ended, or still receives items, is gone for everybody at once, and its key and quota are
        free. Its rows go with `sweep`. Raises WrongState and NoSuchBatch.
        """
        await self._writer.write(lambda db: batches.remove(db, ordinal))

    async def delete_ended_before(self, ended_before: float) -> int:
        """Deletes all that ended before a time. Returns how many."""
        total = 0
        while found := await self._writer.write(
            lambda db: batches.remove_ended_before(db, ended_before, RETENTION_SLICE)
        ):
            total += found
        return total + await self.openai_batches.delete_ended_before(ended_before)

    async def sweep(self) -> None:
        """Removes the rows of all deleted batches and files, slice by slice. To be called after a start, too."""
        while await self._writer.write(removal.sweep):
            pass

    # -- figures

    async def add_usage(self, used: DayUsage) -> None:
        """Counts what a tenant has used outside of the journal. Batches in it count by themselves."""
        await self._writer.write(lambda db: holdings.add_usage(db, used))

    async def usage(self, tenant: str | None, since: str, until: str) -> list[DayUsage]:
        """Of a tenant, or of all for None, from day to day, both included; by day and tenant."""
        return await self._read(lambda db: holdings.used(db, tenant, since, until))

    async def sizes(self, tenant: str | None = None) -> Sizes:
        """What a tenant stores, or all together."""
        return await self._read(lambda db: holdings.sizes(db, tenant))

    async def _read(self, run: "Callable[[Connection], T]") -> T:
        if self._is_closed:
            raise JournalUnavailable("the service is stopping")
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._store.read, run)
