"""Takes out the rows of batches that nobody sees any more, a slice at a time, so that other writes come in between."""

from sqlalchemy import Column, Connection, Table, delete, select

from app.journal.sql.schema import batches, custom_ids, items, results

SLICE_ROWS = 2000
SLICE_BYTES = 4 * 1024**2


def sweep(connection: Connection) -> bool:
    """Removes a slice. False when there was nothing to remove."""
    gone = batches.c.removed_at.is_not(None)
    wanted = select(batches.c.ordinal, batches.c.size, batches.c.stored_bytes).where(gone).limit(1)
    batch = connection.execute(wanted).first()
    if batch is None:
        return False
    each = batch.stored_bytes / batch.size if batch.size else 0
    rows = int(max(1, min(SLICE_ROWS, SLICE_BYTES / max(each, 1))))
    of_batch = ((results, results.c.idx), (items, items.c.idx), (custom_ids, custom_ids.c.custom_id))
    if not any(_slice(connection, table, key, batch.ordinal, rows) for table, key in of_batch):
        connection.execute(delete(batches).where(batches.c.ordinal == batch.ordinal))
    return True


def _slice(connection: Connection, table: Table, key: Column[int] | Column[bytes], ordinal: int, rows: int) -> bool:
    of_batch = table.c.batch == ordinal
    last = connection.execute(select(key).where(of_batch).order_by(key).limit(1).offset(rows - 1)).scalar()
    which = of_batch if last is None else of_batch & (key <= last)
    return connection.execute(delete(table).where(which)).rowcount > 0
