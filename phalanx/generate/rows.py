"""The rows of an input, from JSONL, CSV, lines of text or Parquet: a chunk at a time, numbered from 1, in order.

A row that cannot be taken apart is a row with a problem, so that each row of the input is one row of the output.
"""

import csv
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import msgspec

from phalanx.generate.errors import UsageProblem

CHUNK_ROWS = 1000
BOM = b"\xef\xbb\xbf"
LINE_COLUMN = "prompt"  # of an input without columns
UNREADABLE = "surrogateescape"  # bytes that are not UTF-8 are kept apart, and found in their row


class Format(StrEnum):
    """How rows are written."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    LINES = "lines"  # a prompt a line


SUFFIXES = {
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".csv": Format.CSV,
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
    ".txt": Format.LINES,
}


@dataclass(slots=True)
class Row:
    """One row. `problem` says why it has no columns; `text` is then how it stood in the file."""

    number: int
    columns: dict[str, Any]  # Any: JSON, or what Parquet holds
    problem: str | None = None
    text: str | None = None


@dataclass(slots=True)
class Chunk:
    """Successive rows. `table` is the same as Parquet has it, where the input is Parquet."""

    rows: list[Row]
    table: object = None


class Source(Protocol):
    """An input that can be read again and again."""

    def columns(self) -> list[str] | None:
        """The names of its columns, where they stand at its head."""

    def chunks(self) -> Iterator[Chunk]:
        """Its rows."""


def open_source(path: Path, fmt: Format) -> Source:
    """The rows of a file. Raises UsageProblem."""
    match fmt:
        case Format.JSONL:
            return JsonLines(path)
        case Format.LINES:
            return TextLines(path)
        case Format.CSV:
            return CsvFile(path)
        case Format.PARQUET:
            from phalanx.generate.parquet import ParquetSource

            return ParquetSource(path)


@dataclass
class JsonLines:
    """A JSON object a line."""

    path: Path

    def columns(self) -> None:
        """Unknown: each row has its own."""

    def chunks(self) -> Iterator[Chunk]:
        """Rows numbered as their lines."""
        with self.path.open("rb") as file:
            yield from _chunks(_json_row(number, line) for number, line in _numbered_lines(file))


@dataclass
class TextLines:
    """A prompt a line, as the column `prompt`."""

    path: Path

    def columns(self) -> list[str]:
        """One."""
        return [LINE_COLUMN]

    def chunks(self) -> Iterator[Chunk]:
        """Rows numbered as their lines."""
        with self.path.open("rb") as file:
            yield from _chunks(_text_row(number, line) for number, line in _numbered_lines(file))


@dataclass
class CsvFile:
    """Records under a header, separated by commas. All values are text."""

    path: Path

    def __post_init__(self) -> None:
        csv.field_size_limit(sys.maxsize)

    def columns(self) -> list[str]:
        """The header's. Raises UsageProblem."""
        with self._open() as file:
            return self._header(csv.reader(file))

    def chunks(self) -> Iterator[Chunk]:
        """Rows numbered from the first after the header."""
        with self._open() as file:
            reader = csv.reader(file)
            header = self._header(reader)
            yield from _chunks(
                _csv_row(number, reader.line_num, header, fields) for number, fields in enumerate(reader, 1)
            )

    def _open(self) -> Any:  # Any: a text file, whose type is a mouthful
        return self.path.open(encoding="utf-8-sig", errors=UNREADABLE, newline="")

    def _header(self, reader: Iterator[list[str]]) -> list[str]:
        header = next(reader, None)
        if not header:
            raise UsageProblem(f"{self.path} has no header: a CSV file's first line names its columns")
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise UsageProblem(f"{self.path} has more than one column called {twice[0]!r}: rename one of them")
        if any(_is_garbled(name) for name in header):
            raise UsageProblem(f"{self.path} is not UTF-8: convert it first, as with `iconv -t UTF-8`")
        return header


def _chunks(rows: Iterable[Row]) -> Iterator[Chunk]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, CHUNK_ROWS)):
        yield Chunk(chunk)


def _numbered_lines(file: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(file, 1):
        yield number, (line.removeprefix(BOM) if number == 1 else line).rstrip(b"\r\n")


def _json_row(number: int, line: bytes) -> Row:
    if not line.strip():
        return Row(number, {}, f"line {number} is empty", "")
    try:
        found = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Row(number, {}, f"line {number} is invalid JSON ({error})", line.decode(errors="replace"))
    if not isinstance(found, dict):
        return Row(number, {}, f"line {number} is no JSON object", line.decode(errors="replace"))
    return Row(number, found)


def _text_row(number: int, line: bytes) -> Row:
    try:
        return Row(number, {LINE_COLUMN: line.decode()})
    except UnicodeDecodeError:
        return Row(number, {}, f"line {number} is not UTF-8", line.decode(errors="replace"))


def _csv_row(number: int, line: int, header: list[str], fields: list[str]) -> Row:
    if any(map(_is_garbled, fields)):
        text = ",".join(fields).encode(errors=UNREADABLE).decode(errors="replace")
        return Row(number, {}, f"the row that ends in line {line} is not UTF-8", text)
    if len(fields) == len(header):
        return Row(number, dict(zip(header, fields, strict=True)))
    problem = f"has {len(fields)} fields and the header {len(header)}" if fields else "is empty"
    return Row(number, {}, f"the row that ends in line {line} {problem}", ",".join(fields))


def _is_garbled(text: str) -> bool:
    """Whether there were bytes in it that are not UTF-8."""
    return not text.isascii() and any("\udc80" <= character <= "\udcff" for character in text)
