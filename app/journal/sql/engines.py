"""Connections to the database, set up so that what was committed is durable; and its errors, as reasons in words."""

import os
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, QueuePool

from app.journal.errors import DriverMissing, JournalUnavailable
from app.journal.place import FolderPlace, Place, ServerPlace

READERS = 4  # threads that read at the same time, each with a connection
BUSY_TIMEOUT_MS = 5000  # for somebody's sqlite3 shell to let go
PAGE_BYTES = 8192
CACHE_KIB = 16 * 1024  # of the writer; a reader's is SQLite's own 2 MiB
CHECKPOINT_PAGES = 2048
MAX_WAL_BYTES = 64 * 1024**2  # what the WAL shrinks to after it was larger
CONNECT_TIMEOUT_S = 10
SERVER_SETTINGS = (
    "SET synchronous_commit = on",
    "SET idle_in_transaction_session_timeout = 0",
    "SET tcp_keepalives_idle = 10",  # so that the server notices a machine that is gone, and lets go of the lock
    "SET tcp_keepalives_interval = 5",
    "SET tcp_keepalives_count = 3",
)
CLIENT_SETTINGS = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # ms
    "application_name": "phalanx",
}
# SQLite's kinds of errors that say nothing of the statement.
SQLITE_REASONS = {
    "SQLITE_FULL": "the disk is full",
    "SQLITE_IOERR": "an I/O error of the disk",
    "SQLITE_CORRUPT": "the database file is damaged",
    "SQLITE_NOTADB": "the database file is no SQLite database",
    "SQLITE_BUSY": "another program has locked the database file",
    "SQLITE_LOCKED": "another program has locked the database file",
    "SQLITE_CANTOPEN": "the database file cannot be opened",
    "SQLITE_READONLY": "the database file cannot be written",
    "SQLITE_PERM": "the database file cannot be written",
    "SQLITE_NOMEM": "there is no memory left",
    "SQLITE_PROTOCOL": "another program has locked the database file",
}
# The same for the classes of PostgreSQL's SQLSTATE.
SERVER_REASONS = {
    "08": "the connection to the server is lost",
    "25": "the server takes no writes",  # a standby
    "40": "the server gave the transaction up",
    "53": "the server has no room left",
    "57": "the server is stopping or starting",
    "58": "the server has an I/O error",
    "XX": "the server's database is damaged",
}


def writing_engine(place: Place) -> Engine:
    """For the one connection that writes. Raises DriverMissing."""
    return _file_engine(place.file, writes=True) if isinstance(place, FolderPlace) else _server_engine(place, NullPool)


def reading_engine(place: Place) -> Engine:
    """For `READERS` threads. Raises DriverMissing."""
    return _file_engine(place.file, writes=False) if isinstance(place, FolderPlace) else _server_engine(place)


def unavailable(error: DBAPIError) -> JournalUnavailable | None:
    """Why the database cannot do anything now; None if it could, and the statement is wrong."""
    original = error.orig
    name = str(getattr(original, "sqlite_errorname", ""))
    state = str(getattr(original, "sqlstate", "") or "")
    found = SQLITE_REASONS.get("_".join(name.split("_")[:2])) or SERVER_REASONS.get(state[:2])
    if found is None and error.connection_invalidated:
        found = SERVER_REASONS["08"]
    if found is None and type(original).__name__ == "OperationalError" and not name and not state:
        found = "the server cannot be reached"
    if found is None:
        return None
    detail = str(original).strip().splitlines()
    return JournalUnavailable(found, detail[0] if detail else name)


def _file_engine(file: Path, *, writes: bool) -> Engine:
    def set_up(connection: Any, _: object) -> None:  # Any: the driver's connection
        connection.isolation_level = None  # the driver must not begin transactions behind SQLAlchemy's back
        for pragma in _pragmas(writes=writes):
            connection.execute(f"PRAGMA {pragma}")

    engine = create_engine(
        f"sqlite:///file:{os.path.abspath(file)}?mode=rw&uri=true",  # noqa: PTH100  mode=rw: never made by opening it
        hide_parameters=True,  # they are prompts
        poolclass=NullPool if writes else QueuePool,
        connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_MS / 1000},
        **({} if writes else {"pool_size": READERS, "max_overflow": 0}),
    )
    event.listen(engine, "connect", set_up)
    begin = "BEGIN IMMEDIATE" if writes else "BEGIN"
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


def _pragmas(*, writes: bool) -> list[str]:
    if not writes:
        return ["query_only = ON"]
    return [
        f"page_size = {PAGE_BYTES}",  # this and the next count before the first table is made
        "auto_vacuum = FULL",  # each commit gives back to the disk what it has removed
        "journal_mode = WAL",
        "synchronous = FULL",
        "secure_delete = ON",  # removed prompts are overwritten
        f"cache_size = -{CACHE_KIB}",
        f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
        f"journal_size_limit = {MAX_WAL_BYTES}",
    ]


def _server_engine(place: ServerPlace, pool: type[NullPool] | None = None) -> Engine:
    def set_up(connection: Any, _: object) -> None:  # Any: the driver's connection
        with connection.cursor() as cursor:
            for setting in SERVER_SETTINGS:
                cursor.execute(setting)
        connection.commit()

    sized: dict[str, Any] = {"pool_size": READERS, "max_overflow": 0}  # Any: SQLAlchemy's arguments
    try:
        engine = create_engine(
            make_url(place.url).set(drivername="postgresql+psycopg"),
            connect_args=CLIENT_SETTINGS,
            hide_parameters=True,
            **({"poolclass": pool} if pool else sized),
        )
    except ModuleNotFoundError:
        raise DriverMissing(
            f"{place} needs the package psycopg: install it with `pip install 'phalanx[postgres]'`"
        ) from None
    event.listen(engine, "connect", set_up)
    return engine
