"""An open database: one connection that writes for this epoch, and some that read.

Every transaction checks the epoch first. The database's errors come out as JournalUnavailable when they say nothing of
the statement; all others are bugs, and come out as they are.
"""

import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from app.journal.errors import JournalUnavailable, Superseded
from app.journal.place import FolderPlace, Place
from app.journal.sql import engines, owner, version

T = TypeVar("T")


class Read(Protocol):
    """Has something run in a thread that reads."""

    def __call__(self, run: Callable[[Connection], T]) -> Awaitable[T]: ...


class Store:
    """Made by `app/journal/opening.py`. Its methods block: `read` is for threads that read, the others are for the one
    thread that writes."""

    def __init__(self, place: Place, writer: Engine, connection: Connection, epoch: int) -> None:
        self.place = place
        self.epoch = epoch
        self._writer = writer
        self._readers = engines.reading_engine(place)
        self._connection: Connection | None = connection
        self._session = _session(connection)
        self._inode = _inode(place)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Commits at its end. Raises JournalUnavailable or Superseded: then nothing of it may be said to be stored."""
        connection = self._connection
        if connection is None:
            raise JournalUnavailable("there is no connection to the database")
        with _translated(), connection.begin():
            self._check_file()
            owner.check(connection, self.epoch)
            yield connection

    def read(self, run: Callable[[Connection], T]) -> T:
        """What `run` reads. Tried again once, as the server may have restarted since the connection was made."""
        with _translated():
            try:
                return self._read(run)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
            return self._read(run)

    def reconnect(self) -> None:
        """Connects anew, and writes something. Raises JournalUnavailable and Superseded."""
        self.disconnect()
        with _translated():
            self._connection = self._writer.connect()
            if not owner.try_session_lock(self._connection, self._session):
                holder = owner.holder(self._connection)
                raise Superseded(f"{self.place} is used by another gateway now (the last known is {holder})")
            self._session = owner.session_of(self._connection)
            self._connection.rollback()
        self._inode = _inode(self.place)
        with self.transaction() as connection:
            version.check(connection, self.place)
            owner.probe(connection)

    def disconnect(self) -> None:
        """Leaves the connections; broken ones, too."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()
        self._readers.dispose()

    def _read(self, run: Callable[[Connection], T]) -> T:
        with self._readers.connect() as connection:
            return run(connection)

    def _check_file(self) -> None:
        """What is written to a file that has no name any more is lost, and SQLite does not notice."""
        if self._inode != _inode(self.place):
            raise JournalUnavailable("the database file was replaced or removed", str(self.place))


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        unavailable = engines.unavailable(error)
        if unavailable is None:
            raise
        raise unavailable from error


def _session(connection: Connection) -> int | None:
    session = owner.session_of(connection)
    connection.rollback()
    return session


def _inode(place: Place) -> int | None:
    if not isinstance(place, FolderPlace):
        return None
    try:
        return os.stat(place.file).st_ino  # noqa: PTH116  a microsecond, as it is asked for with every commit
    except OSError:
        return None
