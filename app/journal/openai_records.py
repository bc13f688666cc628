"""What the journal has of OpenAI's batches. Times are Unix seconds (UTC); JSON stays the bytes it was."""

from collections.abc import Mapping

import msgspec

from app.journal.records import StoredBatch
from app.journal.states import OpenAIBatchStatus


class NewOpenAIBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch before its input file is read. Ids sort by the time of their making."""

    id: str
    tenant: str
    key_id: str | None = None
    endpoint: str
    input_file_id: str
    completion_window: str
    metadata: bytes | None = None  # JSON
    output_kept_s: int | None = None  # how long its files are kept; None: as long as the batch
    created_at: float
    expires_at: float  # its completion window is over then


class StoredOpenAIBatch(NewOpenAIBatch, frozen=True, kw_only=True):
    """A batch as it is. `ordinal` names it in all further operations."""

    ordinal: int
    status: OpenAIBatchStatus
    run: int | None  # the ordinal of the StoredBatch that has its items and results
    output_file_id: str | None
    error_file_id: str | None
    errors: bytes | None  # JSON: what is wrong with its input file
    failed_at: float | None
    in_progress_at: float | None
    finalizing_at: float | None
    completed_at: float | None
    expired_at: float | None
    cancelling_at: float | None
    cancelled_at: float | None


class OpenAIBatchPage(msgspec.Struct, frozen=True):
    """Some batches, newest first, and the runs of those that have one, by their ordinals."""

    batches: tuple[StoredOpenAIBatch, ...]
    runs: Mapping[int, StoredBatch]
    has_more: bool
