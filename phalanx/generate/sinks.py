"""How the output is written: JSON lines here, Parquet in a module that needs pyarrow."""

from typing import Any, BinaryIO, Protocol

import msgspec

from phalanx.generate.columns import AddedColumns
from phalanx.generate.rows import Chunk, Format, Source

_encode = msgspec.json.Encoder().encode


class Sink(Protocol):
    """Takes rows in order. The columns that were added are those of the same row of the chunk."""

    def write(self, chunk: Chunk, added: list[dict[str, Any]]) -> None:  # Any: text, numbers, lists
        """Writes rows."""

    def close(self) -> None:
        """Writes what comes last."""


class JsonLinesSink:
    """A JSON object a row."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, chunk: Chunk, added: list[dict[str, Any]]) -> None:
        """A line for each."""
        for row, values in zip(chunk.rows, added, strict=True):
            self._file.write(_encode({**row.columns, **values}) + b"\n")

    def close(self) -> None:
        """Nothing comes last."""


def open_sink(fmt: Format, file: BinaryIO, source: Source, added: AddedColumns) -> Sink:
    """Writes to a file, in a format that an output may have. Raises UsageProblem."""
    if fmt is Format.JSONL:
        return JsonLinesSink(file)
    from phalanx.generate.parquet import ParquetSink, schema_of

    return ParquetSink(file, schema_of(source), added.names, added.has_many)
