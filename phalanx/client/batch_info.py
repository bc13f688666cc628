"""What a service says of a detached batch, as a program reads it. Fields of a later service are passed over."""

from typing import Any, TypeVar

import msgspec

from phalanx.batch_status import ENDS, BatchStatus
from phalanx.client.errors import IncompleteAnswer
from phalanx.client.results import Counts, Usage

UnixTime = int | float  # seconds


class BatchInfo(msgspec.Struct, frozen=True, kw_only=True, tag_field="object", tag="batch_generation.batch"):
    """A detached batch at one moment. `reason` says why it is held, or did not complete."""

    id: str
    status: BatchStatus
    reason: str | None = None
    model: str | None = None
    priority: int = 0
    created_at: UnixTime
    started_at: UnixTime | None = None
    ended_at: UnixTime | None = None
    deadline_at: UnixTime | None = None
    expires_at: UnixTime | None = None
    idempotency_key: str | None = None
    metadata: dict[str, Any] | None = None  # Any: JSON, as it was given
    request_counts: Counts = Counts()
    usage: Usage = Usage()
    tokens_per_s: float | None = None
    predicted_s_left: float | None = None
    predicted_end_at: UnixTime | None = None
    last_seq: int = 0
    stats: dict[str, Any] | None = None  # Any: JSON

    @property
    def is_done(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.status in ENDS

    @property
    def failed_items(self) -> int:
        """Items that ended without an answer, so far."""
        counts = self.request_counts
        return counts.error + counts.cancelled + counts.timeout

    def to_json(self) -> str:
        """As the service writes it."""
        return _encode(self).decode()


class Page(msgspec.Struct, frozen=True):
    """Some of the batches, newest first."""

    data: list[BatchInfo]
    last_id: str | None = None
    has_more: bool = False


class BatchHandle:
    """A detached batch by its id, and what was last seen of it."""

    def __init__(self, id_: str, info: BatchInfo | None) -> None:
        self.id = id_
        self._info = info

    @property
    def info(self) -> BatchInfo:
        """What the service said of it last. Raises RuntimeError when it was not asked yet."""
        if self._info is None:
            raise RuntimeError(f"nothing is known of {self.id} yet: call refresh() first")
        return self._info

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}{f': {self._info.status}' if self._info else ''}>"


T = TypeVar("T")
_encode = msgspec.json.Encoder().encode


def decoded(kind: type[T], body: bytes) -> T:
    """An answer of this kind. Raises IncompleteAnswer for what is none."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IncompleteAnswer(f"the answer is none of Phalanx's ({error})") from None
