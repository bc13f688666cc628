"""What the journal's tests store, and a journal that is open for a while."""

import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from app.journal.health import Health
from app.journal.journal import Journal
from app.journal.opening import open_journal
from app.journal.place import Place
from app.journal.records import FileSealing, NewBatch, NewFile, NewItem, NewResult, Quotas, StoredBatch, StoredFile
from app.journal.states import BatchState, ResultStatus

PIECE = 10  # bytes of each piece of a file
OK, ERROR = ResultStatus.OK, ResultStatus.ERROR


@asynccontextmanager
async def opened(
    place: Place, quotas: Quotas | None = None, heard: list[tuple[Health, str]] | None = None
) -> AsyncIterator[Journal]:
    """A journal. What it says of its health goes to `heard`."""
    said = [] if heard is None else heard
    journal = await open_journal(place, quotas or Quotas(), lambda health, reason: said.append((health, reason)))
    try:
        yield journal
    finally:
        await journal.close()


def new_batch(name: str = "b", **fields: Any) -> NewBatch:
    """A batch of tenant t."""
    return NewBatch(**{"id": name, "tenant": "t", "model": "m", "created_at": time.time()} | fields)


def items(size: int, start: int = 0) -> list[NewItem]:
    """Items with bodies of their own."""
    return [NewItem(b"item %d" % index) for index in range(start, start + size)]


def results(indexes: Iterable[int], status: ResultStatus = OK, **fields: Any) -> list[NewResult]:
    """Their results."""
    return [NewResult(index=index, status=status, body=b"result %d" % index, **fields) for index in indexes]


async def filed(journal: Journal, content: bytes, name: str = "f", **sealing: Any) -> StoredFile:
    """A file of tenant t, in pieces of PIECE bytes."""
    ordinal = await journal.files.create(new_file(name))
    await journal.files.append(ordinal, pieces_of(content))
    return await journal.files.seal(ordinal, FileSealing(**{"purpose": "user_data", "filename": "name"} | sealing))


def new_file(name: str = "f", **fields: Any) -> NewFile:
    """A file of tenant t."""
    return NewFile(**{"id": name, "tenant": "t", "created_at": time.time(), "piece_bytes": PIECE} | fields)


def pieces_of(content: bytes) -> list[bytes]:
    """As a file has it."""
    return [content[start : start + PIECE] for start in range(0, len(content), PIECE)]


async def queued(journal: Journal, size: int, name: str = "b", **fields: Any) -> StoredBatch:
    """A batch whose items are there."""
    batch = await journal.create(new_batch(name, **fields))
    await journal.append(batch.ordinal, items(size))
    return await journal.seal(batch.ordinal)


async def running(journal: Journal, size: int, name: str = "b", **fields: Any) -> StoredBatch:
    """One that is in progress."""
    batch = await queued(journal, size, name, **fields)
    return await journal.set_state(batch.ordinal, BatchState.IN_PROGRESS)


async def seen(journal: Journal, batch: StoredBatch) -> StoredBatch:
    """The batch as it is now."""
    found = await journal.get(batch.id, None)
    assert found is not None
    return found
