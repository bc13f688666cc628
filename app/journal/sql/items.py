"""Items: appended while a batch receives them, and read back in windows."""

import hashlib
from collections.abc import Sequence

from sqlalchemy import Connection, Select, exists, func, select, update

from app.journal.errors import WrongState
from app.journal.records import Appended, NewItem, Quotas, Sizes, StoredItem
from app.journal.sql import batches, holdings
from app.journal.sql.dialect import PAGE_ROWS, insert_new
from app.journal.sql.schema import batches as batches_table
from app.journal.sql.schema import custom_ids, items, results
from app.journal.states import BatchState

LONGEST_CUSTOM_ID = 64  # bytes that are kept; of a longer one a digest is, as an index takes no long values
NO_TEXT = b"\xff"  # begins a digest, and no UTF-8


def append(connection: Connection, ordinal: int, new: Sequence[NewItem], quotas: Quotas) -> Appended:
    """Items behind those that are there. Raises WrongState when the batch receives none, and QuotaExceeded."""
    batch = batches.of_ordinal(connection, ordinal)
    if batch.state is not BatchState.RECEIVING:
        raise WrongState(f"{batch.id} is {batch.state}: it takes no more items")
    size = sum(len(item.body) for item in new)
    own = Sizes(items=batch.size, bytes=batch.stored_bytes)
    holdings.check(connection, quotas, batch.tenant, Sizes(items=len(new), bytes=size), own)
    insert_new(connection, items, [(ordinal, index, item.body) for index, item in enumerate(new, batch.size)])
    duplicates = _note_custom_ids(connection, ordinal, batch.size, new)
    more = {"size": batches_table.c.size + len(new), "stored_bytes": batches_table.c.stored_bytes + size}
    connection.execute(update(batches_table).where(batches_table.c.ordinal == ordinal).values(**more))
    holdings.add(connection, batch.tenant, items=len(new), size=size)
    return Appended(batch.size, duplicates)


def unfinished(connection: Connection, ordinal: int, after: int, limit: int, max_bytes: int) -> list[StoredItem]:
    """Items without a result and with an index above `after`, in order. At least one, if there is one."""
    has_result = exists().where(results.c.batch == items.c.batch, results.c.idx == items.c.idx)
    window = (
        select(items.c.idx, items.c.body)
        .where(items.c.batch == ordinal, items.c.idx > after, ~has_result)
        .order_by(items.c.idx)
        .limit(limit)
    )
    return [StoredItem(row.idx, row.body) for row in connection.execute(bounded(window, "idx", max_bytes))]


def bounded(window: Select[tuple[int, bytes]], order: str, max_bytes: int) -> Select[tuple[int, bytes]]:
    """As many rows of a window as have at most so many bytes of bodies together, and one in any case. The database
    adds them up: a driver may fetch a whole answer before it hands the first row on."""
    rows = window.subquery()
    total = func.sum(func.length(rows.c.body)).over(order_by=rows.c[order])
    summed = select(rows, (total - func.length(rows.c.body)).label("bytes_before")).subquery()
    columns = [summed.c[column.name] for column in rows.c]
    first = summed.c.bytes_before == 0
    fits = summed.c.bytes_before + func.length(summed.c.body) <= max_bytes
    return select(*columns).where(first | fits).order_by(summed.c[order])


def _note_custom_ids(connection: Connection, ordinal: int, first: int, new: Sequence[NewItem]) -> tuple[int, ...]:
    """Keeps them, and returns the indexes of those that stand there already."""
    rows = [
        (ordinal, _kept(item.custom_id), index) for index, item in enumerate(new, first) if item.custom_id is not None
    ]
    if insert_new(connection, custom_ids, rows) == len(rows):
        return ()
    of_batch = custom_ids.c.batch == ordinal
    stored: set[int] = set()
    for start in range(0, len(rows), PAGE_ROWS):
        page = [custom_id for _, custom_id, _ in rows[start : start + PAGE_ROWS]]
        found = select(custom_ids.c.idx).where(of_batch, custom_ids.c.custom_id.in_(page))
        stored.update(connection.execute(found).scalars())
    return tuple(index for _, _, index in rows if index not in stored)


def _kept(custom_id: str) -> bytes:
    raw = custom_id.encode()
    return raw if len(raw) <= LONGEST_CUSTOM_ID else NO_TEXT + hashlib.blake2b(raw, digest_size=32).digest()
