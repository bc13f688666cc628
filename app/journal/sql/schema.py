"""The tables of the journal. app/journal/migrations makes them; a test holds the two against each other.

Times are Unix seconds. No foreign keys: a batch's rows are removed in slices, and each would be looked up for each row.
"""

from collections.abc import Iterable

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

from app.journal.states import BatchKind, BatchState, OpenAIBatchStatus, ResultStatus

REVISIONS = ("0001", "0002")  # oldest first
NEWEST = REVISIONS[-1]  # this version's
WHOLE = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by INTEGER alone, of 64 bits as it is

metadata = MetaData(
    naming_convention={
        "ix": "%(table_name)s_by_%(column_0_N_name)s",
        "uq": "%(table_name)s_unique_%(column_0_N_name)s",
        "ck": "%(table_name)s_%(constraint_name)s",
        "pk": "%(table_name)s_pkey",
    }
)


def _one_of(column: str, values: Iterable[str]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


owner = Table(  # one row: which gateway's life the journal belongs to
    "owner",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1", name="one_row"), primary_key=True, autoincrement=False),
    Column("epoch", WHOLE, nullable=False),
    Column("holder", Text, nullable=False),
    Column("since", Double, nullable=False),
    Column("probed_at", Double),  # written to see whether the database takes writes again
)

batches = Table(
    "batches",
    metadata,
    Column("ordinal", WHOLE, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("tenant", Text, nullable=False),
    Column("key_id", Text),
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("ended_at", Double),
    Column("deadline_at", Double),
    Column("expires_at", Double),
    Column("removed_at", Double),  # nobody sees it any more, and its rows go slice by slice
    Column("priority", WHOLE, nullable=False),
    Column("size", WHOLE, nullable=False, server_default="0"),
    Column("model", Text, nullable=False),
    Column("answer_settings", LargeBinary, nullable=False),
    Column("options", LargeBinary, nullable=False),
    Column("metadata", LargeBinary),
    Column("idempotency_key", Text),
    Column("body_digest", LargeBinary),
    Column("ok_items", WHOLE, nullable=False, server_default="0"),
    Column("error_items", WHOLE, nullable=False, server_default="0"),
    Column("cancelled_items", WHOLE, nullable=False, server_default="0"),
    Column("timeout_items", WHOLE, nullable=False, server_default="0"),
    Column("prompt_tokens", WHOLE, nullable=False, server_default="0"),
    Column("completion_tokens", WHOLE, nullable=False, server_default="0"),
    Column("cached_tokens", WHOLE, nullable=False, server_default="0"),
    Column("restarts_without_result", Integer, nullable=False, server_default="0"),
    Column("last_seq", WHOLE, nullable=False, server_default="0"),
    Column("stored_results", WHOLE, nullable=False, server_default="0"),
    Column("stored_bytes", WHOLE, nullable=False, server_default="0"),
    Column("stats", LargeBinary),
    Column("kind", Text, nullable=False, server_default=BatchKind.GENERATION),
    UniqueConstraint("tenant", "idempotency_key"),
    _one_of("state", BatchState),
    Index(None, "tenant", "ordinal"),
    Index(None, "state"),
    Index(None, "ended_at"),
    Index(None, "removed_at"),
    sqlite_autoincrement=True,  # an ordinal is a cursor: never given twice
)

items = Table(
    "items",
    metadata,
    Column("batch", WHOLE, primary_key=True, autoincrement=False),
    Column("idx", WHOLE, primary_key=True, autoincrement=False),
    Column("body", LargeBinary, nullable=False),
)

custom_ids = Table(  # finds a second use of one
    "custom_ids",
    metadata,
    Column("batch", WHOLE, primary_key=True, autoincrement=False),
    Column("custom_id", LargeBinary, primary_key=True),  # bytes: a custom_id may have characters that TEXT refuses
    Column("idx", WHOLE, nullable=False),
    sqlite_with_rowid=False,
)

results = Table(
    "results",
    metadata,
    Column("batch", WHOLE, primary_key=True, autoincrement=False),
    Column("idx", WHOLE, primary_key=True, autoincrement=False),
    Column("seq", WHOLE, nullable=False),
    Column("status", Text, nullable=False),
    Column("retryable", Boolean, nullable=False),
    Column("prompt_tokens", WHOLE, nullable=False),
    Column("completion_tokens", WHOLE, nullable=False),
    Column("cached_tokens", WHOLE, nullable=False),
    Column("body", LargeBinary, nullable=False),
    UniqueConstraint("batch", "seq"),
    _one_of("status", ResultStatus),
)

usage = Table(
    "usage",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("day", Text, primary_key=True),
    Column("requests", WHOLE, nullable=False),
    Column("items", WHOLE, nullable=False),
    Column("prompt_tokens", WHOLE, nullable=False),
    Column("completion_tokens", WHOLE, nullable=False),
)

holdings = Table(  # what each tenant stores: its quota is one row to look at, all tenants' a row for each
    "holdings",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("batches", WHOLE, nullable=False),
    Column("items", WHOLE, nullable=False),
    Column("bytes", WHOLE, nullable=False),
    Column("files", WHOLE, nullable=False, server_default="0"),
)

files = Table(
    "files",
    metadata,
    Column("ordinal", WHOLE, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("tenant", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("removed_at", Double),  # nobody sees it any more, and its pieces go slice by slice
    Column("is_whole", Boolean, nullable=False),  # nobody sees it before, and a restart removes it
    Column("purpose", Text),  # this and the name may come behind the content
    Column("filename", Text),
    Column("piece_bytes", WHOLE, nullable=False),  # of each piece but the last
    Column("size", WHOLE, nullable=False),
    Column("batch", WHOLE),  # whose results are its lines: it has no pieces then
    Column("holds", Text),  # which of them
    Column("lines", WHOLE, nullable=False),  # of these
    Index(None, "tenant", "id"),
    Index(None, "batch"),
    Index(None, "expires_at"),
    Index(None, "removed_at"),
    sqlite_autoincrement=True,  # pieces that wait to be removed are never another file's
)

file_pieces = Table(
    "file_pieces",
    metadata,
    Column("file", WHOLE, primary_key=True, autoincrement=False),
    Column("piece", WHOLE, primary_key=True, autoincrement=False),
    Column("body", LargeBinary, nullable=False),
)

file_marks = Table(  # where some of the lines begin: so a part of a file is found without reading all before it
    "file_marks",
    metadata,
    Column("file", WHOLE, primary_key=True, autoincrement=False),
    Column("start", WHOLE, primary_key=True, autoincrement=False),  # in bytes
    Column("line", WHOLE, nullable=False),  # how many are before it
    Column("seq", WHOLE, nullable=False),  # of the result that it is
)

openai_batches = Table(  # what OpenAI's API says of its batches beside what their runs, in `batches`, have
    "openai_batches",
    metadata,
    Column("ordinal", WHOLE, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("tenant", Text, nullable=False),
    Column("key_id", Text),
    Column("endpoint", Text, nullable=False),
    Column("input_file_id", Text, nullable=False),
    Column("completion_window", Text, nullable=False),
    Column("metadata", LargeBinary),
    Column("output_kept_s", WHOLE),
    Column("status", Text, nullable=False),
    Column("run", WHOLE),  # the ordinal in `batches`; null while no item of it is stored
    Column("output_file_id", Text),
    Column("error_file_id", Text),
    Column("errors", LargeBinary),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    *(Column(f"{status}_at", Double) for status in OpenAIBatchStatus if status is not OpenAIBatchStatus.VALIDATING),
    Column("ended_at", Double),
    _one_of("status", OpenAIBatchStatus),
    Index(None, "tenant", "id"),
    Index(None, "run"),
    Index(None, "ended_at"),
    sqlite_autoincrement=True,
)
