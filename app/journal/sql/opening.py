"""Opens a database: finds out what it is, brings it to this version's schema, and takes it over.

Whatever is wrong is said in one sentence with its remedy. SQLite is upgraded by whoever opens it, in one transaction.
A server's database is upgraded by `phalanx db upgrade` alone: it may need another user's rights, and a backup first.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from app.journal.errors import (
    CannotOpen,
    FolderUnusable,
    JournalInUse,
    LoginRefused,
    NoJournal,
    NotAJournal,
    ServerUnreachable,
)
from app.journal.place import FolderPlace, Place, ServerPlace
from app.journal.records import Sizes
from app.journal.sql import batches, engines, files, holdings, owner, version
from app.journal.sql.schema import NEWEST
from app.journal.sql.store import Store

OLDEST_SQLITE = (3, 35, 0)  # the first with RETURNING
LOCK_PATIENCE_S = 2.0  # a server notices a moment later that a process has ended, and then lets go of its lock
LOCK_RETRY_S = 0.02
NOT_READY = ("starting up", "shutting down", "too many", "in recovery", "remaining connection slots")


def open_store(place: Place, holder: str) -> Store:
    """Takes the journal over. Raises CannotOpen. The data folder is locked already."""
    with _said(place):
        writer = _engine(place)
        connection = writer.connect()
        try:
            _take_session_lock(connection, place)
            with connection.begin():
                if isinstance(place, FolderPlace):
                    _bring_up_to_date(connection, place)
                version.check(connection, place)
                epoch = owner.take_over(connection, holder)
                batches.take_in_hand(connection)
                files.take_in_hand(connection)
            return Store(place, writer, connection, epoch)
        except BaseException:
            connection.close()
            raise


def _bring_up_to_date(connection: Connection, place: Place) -> None:
    found = version.revision(connection, place)
    if found is None:
        version.make(connection)
    elif found != NEWEST:
        version.upgrade(connection)


def upgrade(place: Place) -> str | None:
    """Brings the schema to this version's. Returns the one before; None if there was none."""
    with _said(place), _engine(place).connect() as connection:
        _take_session_lock(connection, place)
        with connection.begin():
            before = version.revision(connection, place)
            if before != NEWEST:
                version.upgrade(connection)
            return before


def examine(place: Place) -> Sizes:
    """Whether it could be opened, and what it holds. Changes nothing; a gateway may be using it."""
    if isinstance(place, FolderPlace) and not place.file.exists():
        raise NoJournal(f"there is no {place.file}: `phalanx serve` makes one, or name another place with --data-dir")
    with _said(place), _reading(place) as connection:
        version.check(connection, place)
        if isinstance(place, FolderPlace):
            found = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar())
            if found != "ok":
                raise NotAJournal(f"{place.file} is damaged ({found}): restore it from a backup, or move it aside")
        return holdings.sizes(connection, None)


@contextlib.contextmanager
def _reading(place: Place) -> Iterator[Connection]:
    engine = engines.reading_engine(place)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _engine(place: Place) -> Engine:
    if isinstance(place, FolderPlace):
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise CannotOpen(
                f"Python's SQLite is {sqlite3.sqlite_version}, and {place} needs 3.35 or newer: use another Python, or "
                "a PostgreSQL server with --journal-url"
            )
        with contextlib.suppress(FileExistsError):  # for this user alone; SQLite gives its other files the same mode
            os.close(os.open(place.file, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    return engines.writing_engine(place)


def _take_session_lock(connection: Connection, place: Place) -> None:
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        is_taken = owner.try_session_lock(connection)
        connection.rollback()
        if is_taken:
            return
        if time.monotonic() > deadline:
            break
        time.sleep(LOCK_RETRY_S)
    holder = owner.holder(connection) if version.revision(connection, place) else "another process"
    raise JournalInUse(f"{place} is used by {holder}: stop that one, or name another database with --journal-url")


@contextlib.contextmanager
def _said(place: Place) -> Iterator[None]:
    """The database's and the system's errors, as sentences."""
    try:
        yield
    except DBAPIError as error:
        message = " ".join(str(error.orig).split())
        if isinstance(place, ServerPlace):
            raise _server_problem(place, error, message) from error
        raise _file_problem(place, error, message) from error
    except OSError as error:
        raise FolderUnusable(
            f"{place} cannot be used ({error.strerror or error}): name a folder that this user (uid {os.geteuid()}) "
            "may write, with --data-dir"
        ) from error


def _file_problem(place: FolderPlace, error: DBAPIError, message: str) -> CannotOpen:
    name = str(getattr(error.orig, "sqlite_errorname", ""))
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return NotAJournal(
            f"{place.file} is no SQLite database, or is damaged ({message}): restore it, or move it aside"
        )
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return JournalInUse(f"{place.file} is locked by another program: end that one")
    found = engines.unavailable(error)
    reason = f"{found.reason} ({found.detail})" if found else message
    return FolderUnusable(f"{place} cannot be used: {reason}; make room or give this user the right to write there")


def _server_problem(place: ServerPlace, error: DBAPIError, message: str) -> CannotOpen:
    state = str(getattr(error.orig, "sqlstate", "") or "")
    if state.startswith("42"):  # insufficient privilege, among others
        return LoginRefused(f"{place} cannot be used ({message}): give that user rights on the database")
    if "FATAL:" in message and not any(words in message for words in NOT_READY):
        reason = message.partition("FATAL:")[2].strip()
        return LoginRefused(
            f"{place} refuses the login ({reason}): correct the user, the password (also PGPASSWORD or ~/.pgpass) or "
            "the database in --journal-url, or make them on the server"
        )
    return ServerUnreachable(
        f"{place} cannot be reached ({message}): start the server, or correct host and port in --journal-url"
    )
