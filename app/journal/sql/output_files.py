"""Files whose lines are the results of a batch, in the order in which they became durable: nothing is stored twice.

Where some of the lines begin is marked. From one mark to the next there are no more bytes than a piece has, or one line
with more, and no more other results between two lines than are skipped in no time: so any part of a file is found
without reading what stands before it.
"""

import time
from collections.abc import Sequence

import msgspec
from sqlalchemy import ColumnElement, Connection, func, insert, select, update

from app.journal.errors import NoSuchFile
from app.journal.records import NewOutput, StoredBatch, StoredFile
from app.journal.sql.schema import file_marks, files, results
from app.journal.states import OutputKind, ResultStatus

PURPOSE = "batch_output"
MARK_BYTES = 256 * 1024
MARK_RESULTS = 2000  # since the last mark, those of the other file among them
_THERE = files.c.removed_at.is_(None)
_ONE_BY_ONE = 1  # piece_bytes of a file without pieces


class NewLine(msgspec.Struct, frozen=True):
    """A result that was just stored. `size` is that of its body, without the line's end."""

    seq: int
    status: str
    size: int


class _Mark(msgspec.Struct, frozen=True):
    """Where a line begins, how many are before it, and which result it is."""

    start: int
    line: int
    seq: int


def create(connection: Connection, batch: StoredBatch, outputs: Sequence[NewOutput], now: float) -> None:
    """Empty ones. They do not count for quotas: results do."""
    common = {"tenant": batch.tenant, "created_at": now, "is_whole": True, "purpose": PURPOSE, "size": 0, "lines": 0}
    rows = [msgspec.structs.asdict(new) | common for new in outputs]
    connection.execute(insert(files), [row | {"batch": batch.ordinal, "piece_bytes": _ONE_BY_ONE} for row in rows])


def extend(connection: Connection, batch: int, new: Sequence[NewLine]) -> None:
    """Results of a batch were stored, in this order."""
    wanted = select(files.c.ordinal, files.c.holds, files.c.size, files.c.lines).where(files.c.batch == batch, _THERE)
    for file in connection.execute(wanted).all():
        lines = [line for line in new if _held_by(line.status) == file.holds]
        if not lines:
            continue
        marks, end = _marks(_last_mark(connection, file.ordinal), file.size, file.lines, lines)
        if marks:
            rows = [msgspec.structs.asdict(mark) | {"file": file.ordinal} for mark in marks]
            connection.execute(insert(file_marks), rows)
        grown = {"size": end, "lines": files.c.lines + len(lines)}
        connection.execute(update(files).where(files.c.ordinal == file.ordinal).values(**grown))


def lines_at(connection: Connection, file: StoredFile, start: int) -> bytes:
    """From the byte `start` of the file on: the lines up to the next mark. Raises NoSuchFile."""
    of_file = file_marks.c.file == file.ordinal
    marks = select(file_marks.c.start, file_marks.c.line, file_marks.c.seq)
    before = marks.where(of_file, file_marks.c.start <= start).order_by(file_marks.c.start.desc()).limit(1)
    mark = connection.execute(before).first()
    behind = select(func.min(file_marks.c.line)).where(of_file, file_marks.c.start > start).scalar_subquery()
    until = select(func.coalesce(behind, files.c.lines)).where(files.c.ordinal == file.ordinal)
    last = connection.execute(until).scalar()
    if mark is None or last is None:
        raise NoSuchFile("there is no such file: it may have been deleted, or has expired")
    which = (results.c.batch == file.batch) & (results.c.seq >= mark.seq) & _holds(file.holds)
    wanted = select(results.c.body).where(which).order_by(results.c.seq).limit(last - mark.line)
    found = b"".join(body + b"\n" for body in connection.execute(wanted).scalars())[start - mark.start :]
    if not found:
        raise NoSuchFile("there is no such file: it may have been deleted, or has expired")
    return found


def start_of(connection: Connection, file: StoredFile, line: int) -> int:
    """At which byte the file's line begins that has so many before it; its end where it has no more."""
    marks = select(file_marks.c.start, file_marks.c.line, file_marks.c.seq)
    before = marks.where(file_marks.c.file == file.ordinal, file_marks.c.line <= line)
    mark = connection.execute(before.order_by(file_marks.c.start.desc()).limit(1)).first()
    if mark is None or line >= file.lines:
        return file.size
    which = (results.c.batch == file.batch) & (results.c.seq >= mark.seq) & _holds(file.holds)
    skipped = select(func.length(results.c.body).label("size")).where(which).order_by(results.c.seq)
    lengths = skipped.limit(line - mark.line).subquery()
    size = connection.execute(select(func.coalesce(func.sum(lengths.c.size + 1), 0))).scalar_one()
    return int(mark.start) + int(size)


def remove(connection: Connection, batch: int, *, only_empty: bool = False) -> None:
    """Nobody sees the batch's files any more, or those of them without a line."""
    gone = update(files).where(files.c.batch == batch, _THERE).values(removed_at=time.time())
    connection.execute(gone.where(files.c.lines == 0) if only_empty else gone)


def _marks(last: _Mark | None, end: int, before: int, lines: Sequence[NewLine]) -> tuple[list[_Mark], int]:
    """Those that lines get behind so many bytes and lines, and where the file ends then."""
    marks: list[_Mark] = []
    for number, line in enumerate(lines, before):
        after = end + line.size + 1
        if last is None or after - last.start > MARK_BYTES or line.seq - last.seq >= MARK_RESULTS:
            last = _Mark(end, number, line.seq)
            marks.append(last)
        end = after
    return marks, end


def _last_mark(connection: Connection, file: int) -> _Mark | None:
    wanted = select(file_marks.c.start, file_marks.c.line, file_marks.c.seq).where(file_marks.c.file == file)
    row = connection.execute(wanted.order_by(file_marks.c.start.desc()).limit(1)).first()
    return None if row is None else _Mark(row.start, row.line, row.seq)


def _held_by(status: str) -> OutputKind:
    return OutputKind.OUTPUT if status == ResultStatus.OK else OutputKind.ERROR


def _holds(holds: OutputKind | None) -> ColumnElement[bool]:
    is_ok = results.c.status == ResultStatus.OK
    return is_ok if holds is OutputKind.OUTPUT else ~is_ok
