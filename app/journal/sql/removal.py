"""Takes out the rows of batches and files that nobody sees any more, a slice at a time, so that other writes come in
between."""

from sqlalchemy import Column, ColumnElement, Connection, delete, select

from app.journal.sql.schema import batches, custom_ids, file_marks, file_pieces, files, items, results

SLICE_ROWS = 2000
SLICE_BYTES = 4 * 1024**2


def sweep(connection: Connection) -> bool:
    """Removes a slice. False when there was nothing to remove."""
    return _sweep_batch(connection) or _sweep_file(connection)


def _sweep_batch(connection: Connection) -> bool:
    gone = batches.c.removed_at.is_not(None)
    wanted = select(batches.c.ordinal, batches.c.size, batches.c.stored_bytes).where(gone).limit(1)
    batch = connection.execute(wanted).first()
    if batch is None:
        return False
    each = batch.stored_bytes / batch.size if batch.size else 0
    rows = int(max(1, min(SLICE_ROWS, SLICE_BYTES / max(each, 1))))
    keys = (results.c.idx, items.c.idx, custom_ids.c.custom_id)
    if not any(_slice(connection, key.table.c.batch == batch.ordinal, key, rows) for key in keys):
        connection.execute(delete(batches).where(batches.c.ordinal == batch.ordinal))
    return True


def _sweep_file(connection: Connection) -> bool:
    gone = select(files.c.ordinal, files.c.piece_bytes).where(files.c.removed_at.is_not(None)).limit(1)
    file = connection.execute(gone).first()
    if file is None:
        return False
    rows = max(1, SLICE_BYTES // file.piece_bytes)
    keys = ((file_pieces.c.piece, rows), (file_marks.c.start, SLICE_ROWS))
    if not any(_slice(connection, key.table.c.file == file.ordinal, key, most) for key, most in keys):
        connection.execute(delete(files).where(files.c.ordinal == file.ordinal))
    return True


def _slice(connection: Connection, owned: ColumnElement[bool], key: Column[int] | Column[bytes], rows: int) -> bool:
    """Removes the first rows of one batch or file, in the order of a key. False when there are none."""
    last = connection.execute(select(key).where(owned).order_by(key).limit(1).offset(rows - 1)).scalar()
    which = owned if last is None else owned & (key <= last)
    return connection.execute(delete(key.table).where(which)).rowcount > 0
