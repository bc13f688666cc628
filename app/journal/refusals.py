"""The journal's errors as answers to requests."""

from app.errors import Conflict, NotFound, RequestError, TooLarge, TryLater
from app.journal.errors import (
    DiskTooFull,
    JournalError,
    JournalUnavailable,
    KeyInUse,
    NoSuchBatch,
    NoSuchFile,
    QuotaExceeded,
    WrongState,
)
from app.journal.keeper import unavailable

QUOTA_RETRY_S = 60.0  # until batches are deleted, which nobody can foresee


def refusal_of(error: JournalError) -> RequestError:
    """What a client is told: 503 while the journal takes no writes or the disk is too full for files, 429 for a quota
    that has no room left, 413 for what would be more than a whole quota, 404 and 409."""
    if isinstance(error, JournalUnavailable):
        return unavailable(error.reason)
    if isinstance(error, QuotaExceeded | DiskTooFull):
        return _no_room(error)
    if isinstance(error, NoSuchBatch | NoSuchFile):
        return NotFound(str(error), code="batch_not_found" if isinstance(error, NoSuchBatch) else "file_not_found")
    if isinstance(error, WrongState):
        return Conflict(str(error), code="wrong_state")
    if isinstance(error, KeyInUse):  # by one that is being received: what a key stands for is looked up before
        return Conflict(str(error), param="Idempotency-Key", code="idempotency_key_in_use")
    return unavailable("another gateway has taken the journal over")


def _no_room(error: QuotaExceeded | DiskTooFull) -> RequestError:
    if isinstance(error, DiskTooFull):
        return TryLater(str(error), status=503, code="disk_full", retry_after_s=QUOTA_RETRY_S)
    if error.asked > error.allowed:
        return TooLarge(str(error), code="quota_exceeded")
    return TryLater(str(error), status=429, code="quota_exceeded", retry_after_s=QUOTA_RETRY_S)
