"""Parquet, by pyarrow: as input by batches of rows, and as output with the types of the input.

pyarrow is the extra `parquet`: it is imported only when a file of the kind is named.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from phalanx.generate.errors import UsageProblem
from phalanx.generate.rows import CHUNK_ROWS, Chunk, Row, Source

try:
    import pyarrow as pa
    from pyarrow import parquet as pq
except ImportError:
    raise UsageProblem("Parquet needs pyarrow, which is not installed: `pip install 'phalanx[parquet]'`") from None

JSON_TEXT = pa.large_string()  # a column that holds JSON, told from text as it stands, which is a string


class ParquetSource:
    """Rows of a Parquet file. Raises UsageProblem for a file that is none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self.schema: pa.Schema = pq.read_schema(path).remove_metadata()
        except pa.ArrowInvalid as error:
            raise UsageProblem(f"{path} is no Parquet file ({error}): name its format with --input-format") from None

    def columns(self) -> list[str]:
        """The names in its schema."""
        return list(self.schema.names)

    def chunks(self) -> Iterator[Chunk]:
        """Rows numbered from the first, read a row group at a time."""
        number = 0
        try:
            with pq.ParquetFile(self._path) as file:
                for batch in file.iter_batches(batch_size=CHUNK_ROWS):
                    table = pa.Table.from_batches([batch]).replace_schema_metadata()
                    rows = _plain(table).to_pylist()
                    yield Chunk([Row(number + place, columns) for place, columns in enumerate(rows, 1)], table)
                    number += len(rows)
        except (pa.ArrowException, OSError) as error:
            raise UsageProblem(f"{self._path} cannot be read after row {number:,} ({error}): mend the file") from None


class ParquetSink:
    """Writes a Parquet file. `schema` is that of the input's columns."""

    def __init__(self, file: BinaryIO, schema: pa.Schema, names: list[str], has_many: bool) -> None:
        text = pa.list_(pa.string()) if has_many else pa.string()
        types = (text, text, pa.string(), pa.string(), pa.int64(), pa.int64())
        self._schema = schema
        self._added = pa.schema(list(zip(names, types, strict=True)))
        self._writer = pq.ParquetWriter(file, pa.unify_schemas([schema, self._added]))

    def write(self, chunk: Chunk, added: list[dict[str, Any]]) -> None:  # Any: text, numbers, lists
        """A batch of rows: those of Parquet go through as they are."""
        own = chunk.table if isinstance(chunk.table, pa.Table) else _typed(chunk.rows, self._schema)
        new = pa.Table.from_pylist(added, schema=self._added)
        self._writer.write_table(pa.Table.from_arrays(own.columns + new.columns, schema=self._writer.schema))

    def close(self) -> None:
        """Writes the file's foot."""
        self._writer.close()


def schema_of(source: Source) -> pa.Schema:
    """The types of an input's columns. Of one that is not Parquet they are found by reading it once."""
    if isinstance(source, ParquetSource):
        return source.schema
    types: dict[str, pa.DataType] = {}
    for chunk in source.chunks():
        for name in dict.fromkeys(name for row in chunk.rows for name in row.columns):
            found = _type_of([row.columns.get(name) for row in chunk.rows])
            types[name] = found if name not in types else _both(types[name], found)
    return pa.schema([(name, pa.string() if pa.types.is_null(found) else found) for name, found in types.items()])


def _type_of(values: list[Any]) -> pa.DataType:
    """The type that holds all values. Text holds anything, as JSON."""
    if any(isinstance(value, dict) for value in values):  # its keys differ from row to row
        return JSON_TEXT
    try:
        found = pa.array(values).type  # pyarrow.infer_type does not look at all of them
    except (pa.ArrowException, OverflowError):
        return JSON_TEXT
    return JSON_TEXT if "struct<>" in str(found) else found  # Parquet has no empty objects


def _both(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if JSON_TEXT in (one, other):
        return JSON_TEXT
    try:
        fields = [pa.schema([("x", one)]), pa.schema([("x", other)])]
        return pa.unify_schemas(fields, promote_options="permissive").field("x").type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return JSON_TEXT


def _typed(rows: list[Row], schema: pa.Schema) -> pa.Table:
    columns = []
    for field in schema:
        values = [row.columns.get(field.name) for row in rows]
        if field.type == JSON_TEXT:
            values = [None if value is None else msgspec.json.encode(value).decode() for value in values]
        elif pa.types.is_floating(field.type):  # pyarrow takes no large integers among them
            values = [None if value is None else float(value) for value in values]
        columns.append(pa.array(values, type=field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _plain(table: pa.Table) -> pa.Table:
    """With times that Python's own types can hold: nanoseconds would need pandas."""
    for place, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
            exact = pa.timestamp("us", tz=field.type.tz)
            table = table.set_column(place, field.name, table.column(place).cast(exact, safe=False))
    return table
