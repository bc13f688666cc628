"""Takes results back that may be better the next time."""

from collections import Counter

from sqlalchemy import Connection, delete, func, select, update

from app.journal.sql import batches, holdings
from app.journal.sql.schema import batches as batches_table
from app.journal.sql.schema import results


def take_back(connection: Connection, ordinal: int, first: int, rows: int) -> int:
    """Removes the retryable results of `rows` items from `first` on: they run again. Returns how many. What they used
    stays used by the tenant. Raises WrongState for a batch that has not ended: somebody else has resumed it."""
    batch = batches.of_ordinal(connection, ordinal)
    batches.check_ended(batch)
    end = first + rows
    which = (
        (results.c.batch == ordinal) & (results.c.idx >= first) & (results.c.idx < end) & results.c.retryable.is_(True)
    )
    sums = [func.sum(results.c[name]).label(name) for name in ("prompt_tokens", "completion_tokens", "cached_tokens")]
    by_status = select(
        results.c.status, func.count().label("number"), func.sum(func.length(results.c.body)).label("size"), *sums
    )
    found = connection.execute(by_status.where(which).group_by(results.c.status)).mappings().all()
    if not found:
        return 0
    table = batches_table.c
    less: Counter[str] = Counter()
    for row in found:
        less.update({f"{row['status']}_items": row["number"], "stored_results": row["number"]})
        less.update({"stored_bytes": int(row["size"])} | {column.name: int(row[column.name]) for column in sums})
    connection.execute(delete(results).where(which))
    values = {name: table[name] - number for name, number in less.items()}
    connection.execute(update(batches_table).where(table.ordinal == ordinal).values(**values))
    holdings.add(connection, batch.tenant, size=-less["stored_bytes"])
    return less["stored_results"]
