"""Results: put once for each item, and read in the order in which they became durable."""

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Connection, bindparam, select, update

from app.journal.errors import JournalRefusal, NoSuchBatch, WrongState
from app.journal.records import DayUsage, NewResult, PutReport, StoredBatch, StoredResult
from app.journal.sql import batches, holdings
from app.journal.sql.dialect import insert_new
from app.journal.sql.items import bounded
from app.journal.sql.output_files import NewLine, extend
from app.journal.sql.schema import batches as batches_table
from app.journal.sql.schema import results
from app.journal.states import TAKES_RESULTS, BatchKind, ResultStatus


class Put(msgspec.Struct, frozen=True):
    """Results of one batch that somebody wants stored."""

    ordinal: int
    results: Sequence[NewResult]


class _Row(NamedTuple):
    """In the order of the table's columns."""

    batch: int
    item: int
    seq: int
    status: str
    retryable: bool
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    body: bytes


class _Filled(msgspec.Struct):
    """A batch that gets results in this transaction. Two of one item: the first one is stored."""

    batch: StoredBatch
    last_seq: int
    rows: list[_Row]
    stored: Container[int] = ()  # their numbers


COUNTED = (
    *(f"{status}_items" for status in ResultStatus),
    *("prompt_tokens", "completion_tokens", "cached_tokens", "stored_results", "stored_bytes"),
)
_COUNT = (
    update(batches_table)
    .where(batches_table.c.ordinal == bindparam("of"))
    .values(
        {name: batches_table.c[name] + bindparam(f"more_{name}") for name in COUNTED}
        | {"last_seq": bindparam("to_seq"), "restarts_without_result": 0}
    )
)


def put(connection: Connection, puts: Sequence[Put]) -> list[PutReport | JournalRefusal]:
    """All in a handful of statements, whatever batches they are of; for each what became of it."""
    found = batches.of_ordinals(connection, {wanted.ordinal for wanted in puts})
    filled = {
        ordinal: _Filled(batch, batch.last_seq, []) for ordinal, batch in found.items() if batch.state in TAKES_RESULTS
    }
    spans = [_add(filled.get(wanted.ordinal), wanted) for wanted in puts]
    _insert(connection, list(filled.values()))
    _count(connection, list(filled.values()))
    _extend_files(connection, list(filled.values()))
    return [
        _report(filled[wanted.ordinal], span) if wanted.ordinal in filled else _refusal(found.get(wanted.ordinal))
        for wanted, span in zip(puts, spans, strict=True)
    ]


def _add(filled: _Filled | None, wanted: Put) -> slice:
    """Where its rows are."""
    if filled is None:
        return slice(0)
    start = len(filled.rows)
    filled.rows += _rows(wanted, filled.last_seq + 1)
    filled.last_seq += len(wanted.results)
    return slice(start, len(filled.rows))


def _rows(wanted: Put, first_seq: int) -> Iterator[_Row]:
    for seq, result in enumerate(wanted.results, first_seq):
        yield _Row(
            wanted.ordinal,
            result.index,
            seq,
            result.status.value,
            result.retryable,
            result.prompt_tokens,
            result.completion_tokens,
            result.cached_tokens,
            result.body,
        )


def _insert(connection: Connection, all_filled: Sequence[_Filled]) -> None:
    rows = [row for filled in all_filled for row in filled.rows]
    is_all_new = insert_new(connection, results, rows) == len(rows)
    for filled in all_filled:
        before = filled.batch.last_seq
        filled.stored = range(before + 1, filled.last_seq + 1)
        if not is_all_new:
            new = select(results.c.seq).where(results.c.batch == filled.batch.ordinal, results.c.seq > before)
            filled.stored = set(connection.execute(new).scalars())


def _count(connection: Connection, all_filled: Sequence[_Filled]) -> None:
    counted: list[dict[str, int]] = []
    tenants: dict[str, Counter[str]] = {}
    for filled in all_filled:
        sums = _sums([row for row in filled.rows if row.seq in filled.stored])
        if not sums["stored_results"]:
            continue
        more = {f"more_{name}": sums[name] for name in COUNTED}
        counted.append(more | {"of": filled.batch.ordinal, "to_seq": filled.last_seq})
        tenants.setdefault(filled.batch.tenant, Counter()).update(sums)
    if counted:
        connection.execute(_COUNT, counted)
    for tenant, sums in tenants.items():
        holdings.add(connection, tenant, size=sums["stored_bytes"])
        tokens = (sums["prompt_tokens"], sums["completion_tokens"])
        holdings.add_usage(connection, DayUsage(tenant, holdings.today(), 0, sums["stored_results"], *tokens))


def _extend_files(connection: Connection, all_filled: Sequence[_Filled]) -> None:
    for filled in all_filled:
        if filled.batch.kind is BatchKind.OPENAI:
            new = [NewLine(row.seq, row.status, len(row.body)) for row in filled.rows if row.seq in filled.stored]
            extend(connection, filled.batch.ordinal, new)


def _sums(rows: Sequence[_Row]) -> Counter[str]:
    sums = Counter(f"{row.status}_items" for row in rows)
    for name in ("prompt_tokens", "completion_tokens", "cached_tokens"):
        sums[name] = sum(getattr(row, name) for row in rows)
    sums["stored_results"] = len(rows)
    sums["stored_bytes"] = sum(len(row.body) for row in rows)
    return sums


def _report(filled: _Filled, span: slice) -> PutReport:
    rows = filled.rows[span]
    ignored = tuple(row.item for row in rows if row.seq not in filled.stored)
    last_seq = max((row.seq for row in rows if row.seq in filled.stored), default=filled.batch.last_seq)
    return PutReport(last_seq, ignored)


def _refusal(batch: StoredBatch | None) -> JournalRefusal:
    if batch is None:
        return NoSuchBatch("there is no such batch: it may have been removed")
    return WrongState(f"{batch.id} is {batch.state}: it takes no results")


def by_index(connection: Connection, ordinal: int, index: int, limit: int, max_bytes: int) -> list[StoredResult]:
    """Results of items above an index, in the order of the items. At least one, if there is one."""
    return _window(connection, ordinal, results.c.idx, index, limit, max_bytes)


def after(connection: Connection, ordinal: int, seq: int, limit: int, max_bytes: int) -> list[StoredResult]:
    """Results above a number, in order. At least one, if there is one."""
    return _window(connection, ordinal, results.c.seq, seq, limit, max_bytes)


def _window(
    connection: Connection, ordinal: int, order: ColumnElement[int], above: int, limit: int, max_bytes: int
) -> list[StoredResult]:
    columns = (results.c.seq, results.c.idx, results.c.status, results.c.retryable, results.c.body)
    # Any: five columns, not two
    window: Any = select(*columns).where(results.c.batch == ordinal, order > above).order_by(order).limit(limit)
    name = "seq" if order is results.c.seq else "idx"
    return [
        StoredResult(row.seq, row.idx, ResultStatus(row.status), bool(row.retryable), row.body)
        for row in connection.execute(bounded(window, name, max_bytes))
    ]
