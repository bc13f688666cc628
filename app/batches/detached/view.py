"""A stored batch as its owner sees it: the batch object, and the lines of progress and summary of its results."""

from typing import Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from app.batches.detached.figures import Figures
from app.batches.detached.starting import usage_of
from app.batches.results import ItemResult, RequestCounts, Usage
from app.journal.records import StoredBatch

NULL = Raw(b"null")


class DetachedBatch(msgspec.Struct, kw_only=True):
    """The batch object. Times are Unix seconds."""

    id: str
    object: Literal["batch_generation.batch"] = "batch_generation.batch"
    status: str
    reason: str | None
    model: str
    priority: int
    created_at: int
    started_at: int | None
    ended_at: int | None
    deadline_at: int | None
    expires_at: int | None
    idempotency_key: str | None
    metadata: Raw | UnsetType = UNSET
    request_counts: RequestCounts
    usage: Usage
    tokens_per_s: float | None
    predicted_s_left: float | None
    predicted_end_at: int | None
    last_seq: int
    stats: Raw


class DetachedProgress(msgspec.Struct, kw_only=True):
    """A line of progress among results, or after them where more will come."""

    object: Literal["batch_generation.progress"] = "batch_generation.progress"
    id: str
    status: str
    reason: str | None
    request_counts: RequestCounts
    last_seq: int
    running: int
    waiting: int
    tokens_per_s: float | None
    predicted_s_left: float | None


class NumberedResult(ItemResult, kw_only=True):
    """A result with its place in the order in which they became durable."""

    seq: int


class DetachedSummary(msgspec.Struct, kw_only=True):
    """The last line of the results of a batch that has ended."""

    object: Literal["batch_generation.summary"] = "batch_generation.summary"
    id: str
    status: str
    reason: str | None
    model: str
    created_at: int
    request_counts: RequestCounts
    usage: Usage
    stats: Raw


def view_of(stored: StoredBatch, figures: Figures, now: float) -> DetachedBatch:
    """The batch object."""
    left = figures.predicted_s_left
    return DetachedBatch(
        id=stored.id,
        status=str(stored.state),
        reason=stored.reason,
        model=stored.model,
        priority=stored.priority,
        created_at=int(stored.created_at),
        started_at=_whole(stored.started_at),
        ended_at=_whole(stored.ended_at),
        deadline_at=_whole(stored.deadline_at),
        expires_at=_whole(stored.expires_at),
        idempotency_key=stored.idempotency_key,
        metadata=UNSET if stored.metadata is None else Raw(stored.metadata),
        request_counts=counts_of(stored),
        usage=usage_of(stored),
        tokens_per_s=figures.tokens_per_s,
        predicted_s_left=left,
        predicted_end_at=None if left is None else int(now + left),
        last_seq=stored.last_seq,
        stats=NULL if stored.stats is None else Raw(stored.stats),
    )


def progress_of(stored: StoredBatch, figures: Figures) -> DetachedProgress:
    """Where it stands now."""
    return DetachedProgress(
        id=stored.id,
        status=str(stored.state),
        reason=stored.reason,
        request_counts=counts_of(stored),
        last_seq=stored.last_seq,
        running=figures.running,
        waiting=max(0, stored.unfinished - figures.running),
        tokens_per_s=figures.tokens_per_s,
        predicted_s_left=figures.predicted_s_left,
    )


def summary_of(stored: StoredBatch) -> DetachedSummary:
    """Of one that has ended."""
    return DetachedSummary(
        id=stored.id,
        status=str(stored.state),
        reason=stored.reason,
        model=stored.model,
        created_at=int(stored.created_at),
        request_counts=counts_of(stored),
        usage=usage_of(stored),
        stats=NULL if stored.stats is None else Raw(stored.stats),
    )


def counts_of(stored: StoredBatch) -> RequestCounts:
    """Items by their status, those counted in that an ended batch has no results of."""
    counts = stored.counts
    return RequestCounts(
        total=stored.size, ok=counts.ok, error=counts.error, cancelled=counts.cancelled, timeout=counts.timeout
    )


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
