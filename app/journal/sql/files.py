"""Files: filled piece by piece, seen from when they are whole until they expire, and read by pieces."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Update, insert, select, update

from app.journal.errors import DiskTooFull, NoSuchFile
from app.journal.figures import free_bytes
from app.journal.place import Place
from app.journal.records import FilePage, FileSealing, FilesWanted, NewFile, Quotas, Sizes, StoredFile
from app.journal.sql import holdings
from app.journal.sql.dialect import insert_new
from app.journal.sql.schema import file_pieces, files
from app.journal.states import OutputKind

RESERVE_BYTES = 128 * 1024**2  # of the disk: a file that filled it could not even be removed
_COLUMNS = [files.c[name] for name in StoredFile.__struct_fields__]
_THERE = files.c.removed_at.is_(None)


def create(connection: Connection, new: NewFile, quotas: Quotas) -> int:
    """A file that receives its content. Returns its ordinal. Raises QuotaExceeded."""
    holdings.check(connection, quotas, new.tenant, Sizes(files=1))
    row = msgspec.structs.asdict(new)
    made = connection.execute(insert(files).values(**row, is_whole=False, size=0, lines=0).returning(files.c.ordinal))
    holdings.add(connection, new.tenant, files=1)
    return int(made.scalar_one())


def append(connection: Connection, ordinal: int, pieces: Sequence[bytes], quotas: Quotas, place: Place) -> None:
    """Pieces behind those that are there, of which none may be a last one. Raises NoSuchFile, QuotaExceeded and
    DiskTooFull."""
    free = free_bytes(place)
    if free < RESERVE_BYTES:  # NaN, of a server's disk, is not
        raise DiskTooFull(free)
    wanted = select(files.c.tenant, files.c.size, files.c.piece_bytes).where(files.c.ordinal == ordinal, _THERE)
    file = connection.execute(wanted).first()
    if file is None:
        raise _no_such_file()
    size = sum(map(len, pieces))
    holdings.check(connection, quotas, file.tenant, Sizes(bytes=size), Sizes(bytes=file.size))
    first = file.size // file.piece_bytes
    insert_new(connection, file_pieces, [(ordinal, number, body) for number, body in enumerate(pieces, first)])
    connection.execute(_change(ordinal).values(size=files.c.size + size))
    holdings.add(connection, file.tenant, size=size)


def seal(connection: Connection, ordinal: int, sealing: FileSealing) -> StoredFile:
    """All of it is there, and is visible. Raises NoSuchFile."""
    values = msgspec.structs.asdict(sealing)
    connection.execute(_change(ordinal).values(**values, is_whole=True))
    row = connection.execute(select(*_COLUMNS).where(files.c.ordinal == ordinal, _THERE)).mappings().first()
    if row is None:
        raise _no_such_file()
    return _file(row)


def take_in_hand(connection: Connection) -> None:
    """At a gateway's start: what a former one was still receiving is removed."""
    for row in connection.execute(select(files.c.ordinal).where(files.c.is_whole.is_(False), _THERE)).all():
        remove(connection, row.ordinal)


def remove(connection: Connection, ordinal: int) -> None:
    """Nobody sees the file any more. Its pieces go with `removal.sweep`. Raises NoSuchFile."""
    gone = _change(ordinal).values(removed_at=time.time()).returning(files.c.tenant, files.c.size, files.c.batch)
    file = connection.execute(gone).first()
    if file is None:
        raise _no_such_file()
    if file.batch is None:  # else its lines count as the batch's results, for as long as these are there
        holdings.add(connection, file.tenant, files=-1, size=-file.size)


def remove_expired(connection: Connection, now: float, limit: int) -> int:
    """The same for files whose time is over, at most `limit` of them. Returns how many."""
    old = select(files.c.ordinal).where(files.c.expires_at <= now, _THERE).limit(limit)
    found = connection.execute(old).all()
    for row in found:
        remove(connection, row.ordinal)
    return len(found)


# -- reading


def of_id(connection: Connection, file_id: str, tenant: str | None, now: float) -> StoredFile | None:
    """A file that is visible to a tenant; None for the tenant is an admin."""
    row = connection.execute(select(*_COLUMNS).where(files.c.id == file_id, *_visible_to(tenant, now))).mappings()
    found = row.first()
    return _file(found) if found else None


def page(connection: Connection, wanted: FilesWanted, now: float) -> FilePage:
    """In the order of their ids, which is that of their making."""
    found = select(*_COLUMNS).where(*_visible_to(wanted.tenant, now)).limit(wanted.limit + 1)
    if wanted.purpose is not None:
        found = found.where(files.c.purpose == wanted.purpose)
    if wanted.after is not None:
        found = found.where(files.c.id < wanted.after if wanted.is_newest_first else files.c.id > wanted.after)
    found = found.order_by(files.c.id.desc() if wanted.is_newest_first else files.c.id)
    listed = [_file(row) for row in connection.execute(found).mappings()]
    return FilePage(tuple(listed[: wanted.limit]), len(listed) > wanted.limit)


def of_batch(connection: Connection, ordinal: int) -> dict[OutputKind, StoredFile]:
    """Those whose lines are its results."""
    found = connection.execute(select(*_COLUMNS).where(files.c.batch == ordinal, _THERE)).mappings()
    return {OutputKind(row["holds"]): _file(row) for row in found}


def pieces(connection: Connection, ordinal: int, first: int, number: int) -> list[bytes]:
    """So many pieces from one on. Raises NoSuchFile when one of them is not there (any more)."""
    which = (file_pieces.c.file == ordinal) & (file_pieces.c.piece >= first) & (file_pieces.c.piece < first + number)
    found = connection.execute(select(file_pieces.c.body).where(which).order_by(file_pieces.c.piece)).scalars().all()
    if len(found) < number:
        raise _no_such_file()
    return list(found)


def _visible_to(tenant: str | None, now: float) -> list[Any]:  # Any: SQL expressions
    visible = [_THERE, files.c.is_whole.is_(True), files.c.expires_at.is_(None) | (files.c.expires_at > now)]
    return visible if tenant is None else [*visible, files.c.tenant == tenant]


def _change(ordinal: int) -> Update:
    return update(files).where(files.c.ordinal == ordinal, _THERE)


def _file(row: Mapping[Any, Any]) -> StoredFile:  # Any: columns and their values
    values = {name: row[name] for name in StoredFile.__struct_fields__}
    return StoredFile(**values | {"holds": OutputKind(row["holds"]) if row["holds"] else None})


def _no_such_file() -> NoSuchFile:
    return NoSuchFile("there is no such file: it may have been deleted, or has expired")
