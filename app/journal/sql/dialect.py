"""What has to be said differently to each database. SQLAlchemy's part for PostgreSQL is imported where that is used: it
is a tenth of a gateway's start."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import sqlite

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql

PAGE_ROWS = 500  # of one statement for SQLite: it takes 32,766 parameters at most


def insert_new(connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> int:
    """Inserts rows, with values for all columns, but for those whose key is taken. Returns how many it inserted.

    Any: values of the columns. Whole pages are one statement each. SQLAlchemy's own way costs three times as much, most
    of it with Python's lock held, and so at the expense of the event loop; on PostgreSQL it is slower still.
    """
    if not rows:
        return 0
    if connection.dialect.name == "postgresql":
        columns = tuple(list(column) for column in zip(*rows, strict=True))
        return connection.exec_driver_sql(_unnest(table), columns).rowcount
    return sum(
        connection.exec_driver_sql(_values(table, len(page)), tuple(value for row in page for value in row)).rowcount
        for page in _pages(rows)
    )


def add_to(connection: Connection, table: Table, row: dict[str, Any]) -> None:  # Any: numbers, and the key's texts
    """Adds a row's numbers to those of the row with the same key, or makes it."""
    keys = [column.name for column in table.primary_key]
    statement = _insert(connection, table)
    sums = {name: table.c[name] + statement.excluded[name] for name in row if name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=sums), row)


def _insert(connection: Connection, table: Table) -> "postgresql.Insert | sqlite.Insert":
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)
    return sqlite.insert(table)


def _pages(rows: Sequence[tuple[Any, ...]]) -> Iterator[Sequence[tuple[Any, ...]]]:  # Any: as above
    return (rows[first : first + PAGE_ROWS] for first in range(0, len(rows), PAGE_ROWS))


@cache
def _values(table: Table, rows: int) -> str:
    row = f"({', '.join('?' * len(table.c))})"
    return f"INSERT INTO {table.name} ({_columns(table)}) VALUES {', '.join([row] * rows)} ON CONFLICT DO NOTHING"  # noqa: S608  names of ours


@cache
def _unnest(table: Table) -> str:
    """A parameter for each column, not for each value."""
    from sqlalchemy.dialects import postgresql

    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it so
    arrays = ", ".join(f"%s::{column.type.compile(dialect)}[]" for column in table.c)
    return f"INSERT INTO {table.name} ({_columns(table)}) SELECT * FROM unnest({arrays}) ON CONFLICT DO NOTHING"  # noqa: S608  as above


def _columns(table: Table) -> str:
    return ", ".join(column.name for column in table.c)
