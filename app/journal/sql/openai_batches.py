"""OpenAI's batches: made, found, listed, and taken from status to status. Their items and results are those of a run, a
row of `batches`, which is made when the input file is read, and made anew if that is interrupted."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from app.journal.errors import NoSuchBatch, WrongState
from app.journal.openai_records import NewOpenAIBatch, StoredOpenAIBatch
from app.journal.records import Quotas, Sizes
from app.journal.sql import holdings
from app.journal.sql.schema import files, openai_batches
from app.journal.states import OPENAI_ENDED, OpenAIBatchStatus, OutputKind, openai_may_follow

_COLUMNS = [openai_batches.c[name] for name in StoredOpenAIBatch.__struct_fields__]
_FILE_IDS = {OutputKind.OUTPUT: "output_file_id", OutputKind.ERROR: "error_file_id"}


def create(connection: Connection, new: NewOpenAIBatch, quotas: Quotas) -> StoredOpenAIBatch:
    """A batch whose input file is to be read. Raises QuotaExceeded."""
    holdings.check(connection, quotas, new.tenant, Sizes(batches=1))
    connection.execute(
        insert(openai_batches).values(**msgspec.structs.asdict(new), status=OpenAIBatchStatus.VALIDATING)
    )
    holdings.add(connection, new.tenant, batches=1)
    return _one(connection, openai_batches.c.id == new.id)


def check_has_no_run(connection: Connection, ordinal: int) -> None:
    """Raises WrongState for one that cannot get a run, and NoSuchBatch."""
    batch = of_ordinal(connection, ordinal)
    if batch.status is not OpenAIBatchStatus.VALIDATING or batch.run is not None:
        raise WrongState(f"{batch.id} is {batch.status}, and gets no other run")


def give_run(connection: Connection, ordinal: int, run: int) -> None:
    """Its items are being stored as those of this run."""
    _change(connection, ordinal, {"run": run})


def check_step(connection: Connection, ordinal: int, status: OpenAIBatchStatus) -> StoredOpenAIBatch:
    """Raises WrongState for a step that there is not, and NoSuchBatch."""
    batch = of_ordinal(connection, ordinal)
    if not openai_may_follow(batch.status, status):
        raise WrongState(f"{batch.id} is {batch.status}: it cannot become {status}")
    return batch


def set_status(
    connection: Connection,
    ordinal: int,
    status: OpenAIBatchStatus,
    *,
    errors: bytes | None = None,
    file_ids: Mapping[OutputKind, str] | None = None,
) -> StoredOpenAIBatch:
    """Raises WrongState for a step that there is not, and NoSuchBatch. At its end, a file without a line is not named
    any more."""
    batch = check_step(connection, ordinal, status)
    now = time.time()
    values: dict[str, Any] = {"status": status, f"{status}_at": now}  # Any: columns
    values |= {_FILE_IDS[kind]: file_id for kind, file_id in (file_ids or {}).items()}
    if errors is not None:
        values["errors"] = errors
    if status in OPENAI_ENDED:
        values["ended_at"] = now
        values |= {_FILE_IDS[kind]: None for kind in _empty_files(connection, batch.run)}
    _change(connection, ordinal, values)
    return of_ordinal(connection, ordinal)


def lose_run(connection: Connection, run: int, *, is_for_good: bool) -> int:
    """The run is removed: with its batch when it has ended, or else the input file has to be read again. Returns how
    many batches are gone."""
    of_run = openai_batches.c.run == run
    if is_for_good:
        return connection.execute(delete(openai_batches).where(of_run)).rowcount
    connection.execute(update(openai_batches).where(of_run).values(run=None))
    return 0


def remove_ended_before(connection: Connection, ended_before: float, limit: int) -> int:
    """Removes those that ended before a time and have no run, at most `limit` of them. Returns how many."""
    columns = (openai_batches.c.ordinal, openai_batches.c.tenant)
    old = select(*columns).where(openai_batches.c.ended_at < ended_before, openai_batches.c.run.is_(None)).limit(limit)
    found = connection.execute(old).all()
    for row in found:
        connection.execute(delete(openai_batches).where(openai_batches.c.ordinal == row.ordinal))
        holdings.add(connection, row.tenant, batches=-1)
    return len(found)


# -- reading


def of_ordinal(connection: Connection, ordinal: int) -> StoredOpenAIBatch:
    """Raises NoSuchBatch."""
    return _one(connection, openai_batches.c.ordinal == ordinal)


def of_id(connection: Connection, batch_id: str, tenant: str | None) -> StoredOpenAIBatch | None:
    """A batch that is visible to a tenant; None for the tenant is an admin."""
    wanted = select(*_COLUMNS).where(openai_batches.c.id == batch_id, *_visible_to(tenant))
    row = connection.execute(wanted).mappings().first()
    return _batch(row) if row else None


def newest(connection: Connection, tenant: str | None, after: str | None, limit: int) -> list[StoredOpenAIBatch]:
    """A tenant's batches, or everybody's, newest first, behind the one of this id, which need not be there any more."""
    wanted = select(*_COLUMNS).where(*_visible_to(tenant)).order_by(openai_batches.c.id.desc()).limit(limit)
    if after is not None:
        wanted = wanted.where(openai_batches.c.id < after)
    return [_batch(row) for row in connection.execute(wanted).mappings()]


def all_open(connection: Connection) -> list[StoredOpenAIBatch]:
    """All that have not ended, oldest first."""
    wanted = select(*_COLUMNS).where(openai_batches.c.ended_at.is_(None)).order_by(openai_batches.c.ordinal)
    return [_batch(row) for row in connection.execute(wanted).mappings()]


def _visible_to(tenant: str | None) -> Sequence[ColumnElement[bool]]:
    return () if tenant is None else (openai_batches.c.tenant == tenant,)


def _one(connection: Connection, which: ColumnElement[bool]) -> StoredOpenAIBatch:
    row = connection.execute(select(*_COLUMNS).where(which)).mappings().first()
    if row is None:
        raise NoSuchBatch("there is no such batch: it may have been removed")
    return _batch(row)


def _batch(row: Mapping[Any, Any]) -> StoredOpenAIBatch:  # Any: columns and their values
    values = {name: row[name] for name in StoredOpenAIBatch.__struct_fields__}
    return StoredOpenAIBatch(**values | {"status": OpenAIBatchStatus(row["status"])})


def _empty_files(connection: Connection, run: int | None) -> list[OutputKind]:
    if run is None:
        return []
    found = select(files.c.holds).where(files.c.batch == run, files.c.lines == 0)
    return [OutputKind(holds) for holds in connection.execute(found).scalars()]


def _change(connection: Connection, ordinal: int, values: Mapping[str, Any]) -> None:  # Any: columns
    connection.execute(update(openai_batches).where(openai_batches.c.ordinal == ordinal).values(**values))
