"""The output: each row of the input in its order with its result, written aside and renamed into place."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from phalanx.durable_file import sync_folder
from phalanx.generate.columns import BAD_ROW, NO_RESULT, AddedColumns, failed_row
from phalanx.generate.errors import RowProblem
from phalanx.generate.prompts import PromptMaker
from phalanx.generate.rows import Chunk, Row
from phalanx.generate.sinks import Sink
from phalanx.generate.spool import Entry, Spool
from phalanx.generate.workplace import STANDARD

_encode = msgspec.json.Encoder().encode


class Merge:
    """Joins rows with their results. `rows` counts those that were written, `failed` those without a text."""

    def __init__(self, maker: PromptMaker, added: AddedColumns, spool: Spool) -> None:
        self._maker = maker
        self._added = added
        self._spool = spool
        self.rows = 0
        self.failed = 0

    def write(self, chunks: Iterator[Chunk], sink: Sink, failures: BinaryIO) -> None:
        """Writes all rows."""
        for chunk in chunks:
            added = []
            for row in chunk.rows:
                entry = self._entry(row)
                if entry.status != "ok":
                    self.failed += 1
                    failures.write(_failure(row, entry))
                added.append(self._added.values(entry))
            sink.write(chunk, added)
            self.rows += len(chunk.rows)

    def _entry(self, row: Row) -> Entry:
        entry = self._spool.read(row.number)
        if entry is not None:
            return entry
        try:
            item_of(row, self._maker, self._added)
        except RowProblem as problem:
            return failed_row(row.number, BAD_ROW, str(problem))
        return failed_row(row.number, NO_RESULT, "the service gave no result for this row")


def item_of(row: Row, maker: PromptMaker, added: AddedColumns) -> dict[str, Any]:  # Any: JSON
    """What is sent for a row. Raises RowProblem."""
    item = maker.item(row)
    if clash := added.clash(row.columns):
        row.problem, row.columns, row.text = clash, {}, _encode(row.columns).decode()
        raise RowProblem(clash)
    return item


def _failure(row: Row, entry: Entry) -> bytes:
    line = {"row": row.number, "status": entry.status, "code": entry.code, "error": entry.error}
    return _encode(line | {"input": row.text if row.problem is not None else row.columns}) + b"\n"


@contextmanager
def replacing(path: Path | None) -> Iterator[BinaryIO]:
    """A file that takes its place when it is whole and on the disk. `-` is standard output, None is nowhere."""
    if path is None:
        with Path(os.devnull).open("wb") as file:
            yield file
        return
    if path == STANDARD:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = path.with_name(f"{path.name}.phalanx-part")  # on the same file system
    with part.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)
