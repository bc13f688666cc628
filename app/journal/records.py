"""What goes into the journal and what comes out of it. Times are Unix seconds (UTC); JSON stays the bytes it was."""

import msgspec

from app.journal.states import BatchKind, BatchState, OutputKind, ResultStatus


class NewBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch before its items."""

    id: str
    tenant: str
    key_id: str | None = None
    model: str
    priority: int = 0
    created_at: float
    answer_settings: bytes = b"{}"  # JSON: what its answers depend on besides the model's name
    options: bytes = b"{}"  # JSON, as it came: what was asked for the whole batch
    metadata: bytes | None = None  # JSON
    idempotency_key: str | None = None
    kind: BatchKind = BatchKind.GENERATION


class Sealing(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a batch when all its items are there."""

    deadline_at: float | None = None  # items without a result then have timed out
    expires_at: float | None = None  # not to be started any more then
    body_digest: bytes | None = None  # of the request that its idempotency key stands for


class Counts(msgspec.Struct, frozen=True):
    """Items by the status of their results."""

    ok: int = 0
    error: int = 0
    cancelled: int = 0
    timeout: int = 0

    @property
    def total(self) -> int:
        """Items that have ended."""
        return self.ok + self.error + self.cancelled + self.timeout


class TokenUsage(msgspec.Struct, frozen=True):
    """Tokens of results together."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class StoredBatch(NewBatch, frozen=True, kw_only=True):
    """A batch as the journal has it. `ordinal` names it in all further operations, and orders the batches."""

    ordinal: int
    state: BatchState
    deadline_at: float | None
    expires_at: float | None
    body_digest: bytes | None
    reason: str | None  # why it is held, or has failed
    started_at: float | None
    ended_at: float | None
    size: int  # items
    counts: Counts
    usage: TokenUsage
    restarts_without_result: int
    last_seq: int  # of its latest result; 0 before the first
    stored_results: int
    stored_bytes: int  # of its items and results
    stats: bytes | None  # JSON

    @property
    def unfinished(self) -> int:
        """Items without a result."""
        return self.size - self.stored_results


class NewItem(msgspec.Struct, frozen=True):
    """One prompt, as JSON."""

    body: bytes
    custom_id: str | None = None


class Appended(msgspec.Struct, frozen=True):
    """What became of items: the first one's index, and the indexes of those whose custom_id stands earlier."""

    first: int
    duplicates: tuple[int, ...]


class StoredItem(msgspec.Struct, frozen=True):
    """An item and its place in the batch."""

    index: int
    body: bytes


class NewResult(msgspec.Struct, frozen=True, kw_only=True):
    """How an item ended. `retryable`: `resume` runs it again."""

    index: int
    status: ResultStatus
    body: bytes  # JSON
    retryable: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class PutReport(msgspec.Struct, frozen=True):
    """What became of results. `ignored` are the indexes that had one already, and keep it."""

    last_seq: int
    ignored: tuple[int, ...] = ()


class StoredResult(msgspec.Struct, frozen=True):
    """A result. `seq` grows in the order in which a batch's results became durable; it may have gaps."""

    seq: int
    index: int
    status: ResultStatus
    retryable: bool
    body: bytes


class BatchPage(msgspec.Struct, frozen=True):
    """Some batches, newest first. `before` is the cursor of the next page; None on the last."""

    batches: tuple[StoredBatch, ...]
    before: int | None


class NewFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file before its content. Ids sort by the time of their making, and so name a place in a list for ever."""

    id: str
    tenant: str
    created_at: float
    piece_bytes: int  # how many each piece of its content has, but for the last


class FileSealing(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a file when all of it is there."""

    purpose: str
    filename: str
    expires_at: float | None = None  # nobody sees it from then on


class StoredFile(NewFile, frozen=True, kw_only=True):
    """A file that is there as a whole. `ordinal` names it in all further operations; `size` is in bytes."""

    ordinal: int
    purpose: str
    filename: str
    expires_at: float | None
    size: int
    batch: int | None = None  # the ordinal of the batch whose results are its lines: it grows with them
    holds: OutputKind | None = None  # which of them
    lines: int = 0  # of these


class NewOutput(msgspec.Struct, frozen=True, kw_only=True):
    """A file whose lines are results of a batch."""

    id: str
    holds: OutputKind
    filename: str
    expires_at: float | None = None


class FilesWanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which files a list has; None for the tenant is an admin, who sees all."""

    tenant: str | None
    purpose: str | None = None
    after: str | None = None  # the id of a file, which need not be there any more
    limit: int = 20
    is_newest_first: bool = True


class FilePage(msgspec.Struct, frozen=True):
    """Some files, and whether there are more behind them."""

    files: tuple[StoredFile, ...]
    has_more: bool


class DayUsage(msgspec.Struct, frozen=True):
    """What a tenant used on a day, such as 2026-11-27 (UTC)."""

    tenant: str
    day: str
    requests: int = 0
    items: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Sizes(msgspec.Struct, frozen=True):
    """What is stored, without what waits to be removed."""

    batches: int = 0
    items: int = 0
    bytes: int = 0  # of items, results and files
    files: int = 0


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    """What may be stored; None is any number."""

    batches: int | None = None
    items: int | None = None
    bytes: int | None = None
    files: int | None = None


class Quotas(msgspec.Struct, frozen=True, kw_only=True):
    """For each tenant, and for all together."""

    tenant: Allowance = Allowance()
    total: Allowance = Allowance()
