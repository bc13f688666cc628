"""Batches: made, found, listed, and taken from state to state. Each function runs within the caller's transaction, and
checks before it writes."""

import time
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, insert, select, update

from app.journal.errors import KeyInUse, NoSuchBatch, WrongState
from app.journal.records import (
    BatchPage,
    Counts,
    DayUsage,
    NewBatch,
    Quotas,
    Sealing,
    Sizes,
    StoredBatch,
    TokenUsage,
)
from app.journal.sql import holdings, openai_batches, output_files
from app.journal.sql.schema import batches
from app.journal.states import ENDED, OPEN, REST, BatchKind, BatchState, may_follow

KEY_LIFE_S = 24 * 3600  # an idempotency key's, after the end of its batch
_COUNTS, _TOKENS = Counts.__struct_fields__, TokenUsage.__struct_fields__
_GATHERED = {"counts", "usage"}
_PLAIN = [name for name in StoredBatch.__struct_fields__ if name not in _GATHERED]
_COLUMNS = [
    *(batches.c[name] for name in _PLAIN),
    *(batches.c[f"{name}_items"] for name in _COUNTS),
    *(batches.c[name] for name in _TOKENS),
]
_THERE = batches.c.removed_at.is_(None)


def create(connection: Connection, new: NewBatch, quotas: Quotas) -> StoredBatch:
    """A batch that receives its items. Raises KeyInUse and QuotaExceeded."""
    if new.idempotency_key is not None:
        _free_key(connection, new.tenant, new.idempotency_key, new.created_at)
    if new.kind is BatchKind.GENERATION:  # else it is the run of one that counts already
        holdings.check(connection, quotas, new.tenant, Sizes(batches=1))
        holdings.add(connection, new.tenant, batches=1)
    row = msgspec.structs.asdict(new)
    connection.execute(insert(batches).values(**row, state=BatchState.RECEIVING))
    return _one(connection, batches.c.id == new.id)


def seal(connection: Connection, ordinal: int, sealing: Sealing) -> StoredBatch:
    """All items are there: the batch is queued, and visible."""
    batch = of_ordinal(connection, ordinal)
    _check_step(batch, BatchState.QUEUED, BatchState.RECEIVING)
    values = {"state": BatchState.QUEUED, **msgspec.structs.asdict(sealing)}
    connection.execute(update(batches).where(batches.c.ordinal == ordinal).values(**values))
    holdings.add_usage(connection, DayUsage(batch.tenant, holdings.today(), requests=1))
    return of_ordinal(connection, ordinal)


def set_state(
    connection: Connection, ordinal: int, state: BatchState, reason: str | None, stats: bytes | None
) -> StoredBatch:
    """Raises WrongState for a step that there is not, and for the end of a batch that would lack results."""
    batch = of_ordinal(connection, ordinal)
    _check_step(batch, state, *OPEN)
    values: dict[str, Any] = {"state": state, "reason": reason}  # Any: columns
    if state is BatchState.IN_PROGRESS and batch.started_at is None:
        values["started_at"] = time.time()
    if batch.state is BatchState.HELD and state is BatchState.QUEUED:
        values["restarts_without_result"] = 0
    if state in ENDED:
        values |= _at_end(batch, state)
    if stats is not None:
        values["stats"] = stats
    connection.execute(update(batches).where(batches.c.ordinal == ordinal).values(**values))
    return of_ordinal(connection, ordinal)


def request_cancel(connection: Connection, ordinal: int) -> StoredBatch:
    """An open batch is `cancelling` from now on; any other stays as it is."""
    batch = of_ordinal(connection, ordinal)
    if batch.state in OPEN and batch.state is not BatchState.CANCELLING:
        return set_state(connection, ordinal, BatchState.CANCELLING, None, None)
    return batch


def reopen(connection: Connection, ordinal: int, deadline_at: float | None, expires_at: float | None) -> StoredBatch:
    """A batch that has ended, or is held, is queued again; what counted for items without a result does so no more."""
    batch = of_ordinal(connection, ordinal)
    values: dict[str, Any] = {"state": BatchState.QUEUED, "reason": None, "restarts_without_result": 0}  # Any: columns
    if batch.state is BatchState.HELD:  # it goes on within the limits that it has, unless there are new ones
        limits = {"deadline_at": deadline_at, "expires_at": expires_at}
        values |= {name: value for name, value in limits.items() if value is not None}
    else:
        check_ended(batch)
        values |= {"deadline_at": deadline_at, "expires_at": expires_at}
        values |= {"started_at": None, "ended_at": None, "stats": None}
    rest = batch.counts.total - batch.stored_results
    if batch.state in REST and rest:
        counted = batches.c[f"{REST[batch.state]}_items"]
        values[counted.name] = counted - rest
    connection.execute(update(batches).where(batches.c.ordinal == ordinal).values(**values))
    return of_ordinal(connection, ordinal)


def take_in_hand(connection: Connection) -> None:
    """At a gateway's start. What was still receiving is removed; what was running may have ended the last gateway."""
    receiving = batches.c.state == BatchState.RECEIVING
    for row in connection.execute(select(batches.c.ordinal).where(receiving, _THERE)).all():
        remove(connection, row.ordinal)
    running = batches.c.state == BatchState.IN_PROGRESS
    raised = {"restarts_without_result": batches.c.restarts_without_result + 1}
    connection.execute(update(batches).where(running, _THERE).values(**raised))


def remove(connection: Connection, ordinal: int) -> None:
    """Nobody sees the batch any more, and its key is free. Its rows go with `removal.sweep`."""
    batch = of_ordinal(connection, ordinal)
    if batch.state in OPEN:
        raise WrongState(f"{batch.id} is {batch.state}: cancel it, and delete it when it has ended")
    values = {"removed_at": time.time(), "idempotency_key": None}
    connection.execute(update(batches).where(batches.c.ordinal == ordinal).values(**values))
    gone = 1
    if batch.kind is BatchKind.OPENAI:
        output_files.remove(connection, ordinal)
        gone = openai_batches.lose_run(connection, ordinal, is_for_good=batch.state in ENDED)
    holdings.add(connection, batch.tenant, batches=-gone, items=-batch.size, size=-batch.stored_bytes)


def remove_ended_before(connection: Connection, ended_before: float, limit: int) -> int:
    """The same for batches that ended before a time, at most `limit` of them. Returns how many."""
    old = select(batches.c.ordinal).where(batches.c.ended_at < ended_before, _THERE).limit(limit)
    found = connection.execute(old).all()
    for row in found:
        remove(connection, row.ordinal)
    return len(found)


# -- reading


def of_ordinal(connection: Connection, ordinal: int) -> StoredBatch:
    """Raises NoSuchBatch."""
    return _one(connection, batches.c.ordinal == ordinal)


def of_ordinals(connection: Connection, ordinals: Collection[int]) -> dict[int, StoredBatch]:
    """Those of them that there are."""
    wanted = select(*_COLUMNS).where(batches.c.ordinal.in_(ordinals), _THERE)
    return {row["ordinal"]: _batch(row) for row in connection.execute(wanted).mappings()}


def of_id(connection: Connection, batch_id: str, tenant: str | None) -> StoredBatch | None:
    """A batch that is visible to a tenant; None for the tenant is an admin."""
    wanted = select(*_COLUMNS).where(batches.c.id == batch_id, *_visible_to(tenant))
    row = connection.execute(wanted).mappings().first()
    return _batch(row) if row else None


def of_key(connection: Connection, tenant: str, key: str, now: float) -> StoredBatch | None:
    """The batch that an idempotency key stands for, also while it is receiving."""
    batch = _keyed(connection, tenant, key)
    return None if batch is None or _is_key_free(batch, now) else batch


def _keyed(connection: Connection, tenant: str, key: str) -> StoredBatch | None:
    """Also one whose key is free by now. One that was removed has none."""
    named = (batches.c.tenant == tenant) & (batches.c.idempotency_key == key)
    row = connection.execute(select(*_COLUMNS).where(named)).mappings().first()
    return _batch(row) if row else None


def page(
    connection: Connection, tenant: str | None, states: Collection[BatchState], before: int | None, limit: int
) -> BatchPage:
    """A tenant's batches of our own API, or everybody's, newest first."""
    wanted = select(*_COLUMNS).where(*_visible_to(tenant), batches.c.kind == BatchKind.GENERATION)
    wanted = wanted.order_by(batches.c.ordinal.desc()).limit(limit + 1)
    if states:
        wanted = wanted.where(batches.c.state.in_(sorted(states)))
    if before is not None:
        wanted = wanted.where(batches.c.ordinal < before)
    found = [_batch(row) for row in connection.execute(wanted).mappings()]
    return BatchPage(tuple(found[:limit]), found[limit - 1].ordinal if len(found) > limit else None)


def all_open(connection: Connection) -> list[StoredBatch]:
    """All that have not ended, oldest first."""
    wanted = select(*_COLUMNS).where(batches.c.state.in_(sorted(OPEN)), _THERE).order_by(batches.c.ordinal)
    return [_batch(row) for row in connection.execute(wanted).mappings()]


def _visible_to(tenant: str | None) -> list[Any]:  # Any: SQL expressions
    visible = [_THERE, batches.c.state != BatchState.RECEIVING]
    return visible if tenant is None else [*visible, batches.c.tenant == tenant]


def _one(connection: Connection, which: Any) -> StoredBatch:  # Any: an SQL expression
    row = connection.execute(select(*_COLUMNS).where(which, _THERE)).mappings().first()
    if row is None:
        raise NoSuchBatch("there is no such batch: it may have been removed")
    return _batch(row)


def _batch(row: Mapping[Any, Any]) -> StoredBatch:  # Any: columns and their values
    plain = {name: row[name] for name in _PLAIN}
    plain["state"], plain["kind"] = BatchState(row["state"]), BatchKind(row["kind"])
    counts = Counts(*(row[f"{name}_items"] for name in _COUNTS))
    return StoredBatch(**plain, counts=counts, usage=TokenUsage(*(row[name] for name in _TOKENS)))


# -- rules


def check_ended(batch: StoredBatch) -> None:
    """Raises WrongState for one that cannot be resumed."""
    if batch.state not in ENDED:
        raise WrongState(f"{batch.id} is {batch.state}: one that has ended or is held can be resumed")


def _check_step(batch: StoredBatch, state: BatchState, *allowed_from: BatchState) -> None:
    if batch.state not in allowed_from or not may_follow(batch.state, state):
        raise WrongState(f"{batch.id} is {batch.state}: it cannot become {state}")
    if state is BatchState.COMPLETED and batch.unfinished:
        raise WrongState(f"{batch.id} has {batch.unfinished} items without a result: it is not completed")


def _at_end(batch: StoredBatch, state: BatchState) -> dict[str, Any]:  # Any: columns
    """Items without a result count, too, though no rows are written for them: there may be millions."""
    values: dict[str, Any] = {"ended_at": time.time()}
    if state in REST and batch.unfinished:
        counted = batches.c[f"{REST[state]}_items"]
        values[counted.name] = counted + batch.unfinished
    return values


def _free_key(connection: Connection, tenant: str, key: str, now: float) -> None:
    batch = _keyed(connection, tenant, key)
    if batch is None:
        return
    if not _is_key_free(batch, now):
        raise KeyInUse(key, batch.id)
    connection.execute(update(batches).where(batches.c.ordinal == batch.ordinal).values(idempotency_key=None))


def _is_key_free(batch: StoredBatch, now: float) -> bool:
    return batch.ended_at is not None and batch.ended_at + KEY_LIFE_S < now
