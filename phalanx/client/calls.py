"""The requests that a client makes: their paths and bodies, and what it means when one is lost. No input or output."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from phalanx.client.batch_info import BatchInfo, Page
from phalanx.client.errors import ConnectionFailed, MaybeAccepted
from phalanx.client.exchange import BatchOptions, Prompt, broken, unreachable

PATH = "/v1/batch_generate"
JSON = "application/json"
NDJSON = "application/x-ndjson"
OPTIONS = "batch_generation.options"
PIECE_BYTES = 64 * 1024
KEPT_BYTES = 1024 * 1024  # of an iterator
PAGE_SIZE = 100  # batches

Params = Mapping[str, str | int]
_encode = msgspec.json.Encoder().encode


class Call:
    """A request, which may be sent again unless it says otherwise."""

    def __init__(
        self, method: str, path: str, *, params: Params | None = None, body: bytes | None = None, accepts: str = JSON
    ) -> None:
        self.method = method
        self.path = path
        self.params = params
        self.headers = {"Accept": accepts} if body is None else {"Accept": accepts, "Content-Type": JSON}
        self._body = body

    @property
    def can_be_sent_again(self) -> bool:
        """Whether all of it is still there."""
        return True

    def content(self) -> bytes | Iterator[bytes] | None:
        """The body, for one attempt."""
        return self._body

    def lost(self, url: str, error: httpx.HTTPError) -> ConnectionFailed:
        """The error for an attempt without an answer."""
        return unreachable(url, error)


class Lines(Call):
    """A batch as NDJSON: a line of options, then a line for each prompt, encoded as they are sent.

    An iterator is read once. What was sent of it is kept up to a bound, for another attempt; it may be larger than
    memory and disk.
    """

    def __init__(self, prompts: Iterable[Prompt], options: Mapping[str, object], accepts: str = JSON) -> None:
        super().__init__("POST", PATH, accepts=accepts)
        self.headers["Content-Type"] = NDJSON
        self._prompts = prompts
        self._is_read_once = isinstance(prompts, Iterator)
        self._first_line = _encode({"object": OPTIONS, **options})
        self._kept: list[bytes] = []  # of what is read once, all pieces before, or none
        self._kept_bytes = 0
        self._is_begun = False
        self._is_sent = False

    @property
    def can_be_sent_again(self) -> bool:
        """Whether all prompts are still there."""
        return self._kept_bytes <= KEPT_BYTES

    def content(self) -> Iterator[bytes]:
        """Pieces of whole lines, of some 64 KiB each unless a line is larger."""
        self._is_begun = self._is_sent = False
        return self._pieces()

    def lost(self, url: str, error: httpx.HTTPError) -> ConnectionFailed:
        """What was sent has no results any more."""
        failed = self._lost(broken(url, error)) if self._is_begun else unreachable(url, error)
        failed.__cause__ = error
        return failed

    def _lost(self, broke: str) -> ConnectionFailed:
        return ConnectionFailed(f"{broke} before the batch was answered")

    def _pieces(self) -> Iterator[bytes]:
        yield from self._kept.copy()
        piece = bytearray() if self._kept else bytearray(self._first_line + b"\n")
        for prompt in self._prompts:
            self._is_begun = True
            piece += _encode(prompt)
            piece += b"\n"
            if len(piece) >= PIECE_BYTES:
                yield self._keep(bytes(piece))
                piece.clear()
        if piece:
            yield self._keep(bytes(piece))
        self._is_begun = self._is_sent = True  # all but the mark of its end, without which nothing is accepted

    def _keep(self, piece: bytes) -> bytes:
        """The same; another attempt begins with it, if it has to."""
        if self._is_read_once:
            self._kept_bytes += len(piece)
            self._kept.append(piece)
            if not self.can_be_sent_again:
                self._kept.clear()
        return piece


class Submission(Lines):
    """A detached batch."""

    def __init__(self, prompts: Iterable[Prompt], options: Mapping[str, object], idempotency_key: str | None) -> None:
        super().__init__(prompts, {"background": True, **options})
        if idempotency_key is not None:
            self.headers["Idempotency-Key"] = _header(idempotency_key)
        self._has_key = idempotency_key is not None

    def _lost(self, broke: str) -> ConnectionFailed:
        """A batch that was not sent whole is not accepted. One that was may be."""
        if not self._is_sent:
            return ConnectionFailed(f"{broke} before all prompts were sent: nothing was accepted")
        if not self._has_key:
            remedy = "look for it in `batches`; a batch with an idempotency_key can be sent again safely"
        else:
            remedy = "submit the same prompts again with the same idempotency_key"
        return MaybeAccepted(f"{broke} before the batch was acknowledged, so it may have been accepted: {remedy}")


class Paging:
    """Batches, newest first, a page at a time."""

    def __init__(self, statuses: Collection[str], limit: int | None) -> None:
        self._statuses = ",".join(statuses)
        self._left = limit
        self._after: str | None = None
        self._is_over = False

    def next(self) -> Call | None:
        """For the next page. None when there is none, or enough have come."""
        if self._is_over or (self._left is not None and self._left <= 0):
            return None
        asked: dict[str, str | int] = {"limit": PAGE_SIZE if self._left is None else min(PAGE_SIZE, self._left)}
        if self._after is not None:
            asked["after"] = self._after
        if self._statuses:
            asked["status"] = self._statuses
        return Call("GET", PATH, params=asked)

    def take(self, page: Page) -> list[BatchInfo]:
        """The batches of an answer."""
        if self._left is not None:
            self._left -= len(page.data)
        self._after = page.last_id
        self._is_over = not page.has_more or page.last_id is None
        return page.data


def generation(prompts: Iterable[Prompt], options: BatchOptions) -> Call:
    """A batch that lives as long as its connection. What may be larger than memory goes as lines."""
    if not isinstance(prompts, Sequence):
        return Lines(prompts, {**options}, accepts=NDJSON)
    body = _encode({"prompts": list(prompts), "stream": True, **options})
    return Call("POST", PATH, body=body, accepts=NDJSON)


def submission(
    prompts: Iterable[Prompt],
    options: BatchOptions,
    idempotency_key: str | None,
    expires_after_s: float | None,
    metadata: Mapping[str, Any] | None,  # Any: JSON
) -> Submission:
    """A detached batch. Raises ValueError for a key that no header can carry."""
    more = _given(expires_after_s=expires_after_s, metadata=metadata)
    return Submission(prompts, {**options, **more}, idempotency_key)


def show(id_: str) -> Call:
    """The batch as it is now."""
    return Call("GET", _path(id_))


def results(id_: str, after: int, *, follow: bool) -> Call:
    """The results after this seq, and with `follow` those to come."""
    asked = {"after": after, "follow": 1} if follow else {"after": after}
    return Call("GET", _path(id_, "/results"), params=asked, accepts=NDJSON)


def cancel(id_: str) -> Call:
    """Gives up what has no result yet."""
    return Call("POST", _path(id_, "/cancel"))


def resume(id_: str, timeout_s: float | None, expires_after_s: float | None) -> Call:
    """Runs again what has no result, or one that may be retried."""
    asked = _given(timeout_s=timeout_s, expires_after_s=expires_after_s)
    return Call("POST", _path(id_, "/resume"), body=_encode(asked) if asked else None)


def delete(id_: str) -> Call:
    """Removes one that has ended."""
    return Call("DELETE", _path(id_))


def _path(id_: str, rest: str = "") -> str:
    return f"{PATH}/{quote(id_, safe='')}{rest}"


def _given(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def _header(key: str) -> str:
    if not key or not key.isascii() or not key.isprintable():
        raise ValueError(f"idempotency_key is {key!r}: it must be printable ASCII characters, and not empty")
    return key
