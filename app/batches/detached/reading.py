"""The results of a stored batch as lines for its readers, whom it never waits for and who may come back at any time."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec

from app.batches.detached.batches import DetachedBatches
from app.batches.detached.figures import Figures
from app.batches.detached.options import decode_options
from app.batches.detached.view import progress_of, summary_of
from app.batches.intake import label_of
from app.batches.lines import refusal_of
from app.batches.record import NO_LABEL
from app.batches.result_stream import as_line
from app.batches.results import Status, encode_result
from app.errors import BrokenOff
from app.journal.errors import JournalUnavailable
from app.journal.journal import Journal
from app.journal.keeper import JournalKeeper
from app.journal.records import StoredBatch, StoredItem
from app.journal.states import ENDED, REST, ResultStatus
from engines.contract.protocol import ItemError, ItemErrorCode, Outcome, Result

WINDOW_RESULTS = 500
WINDOW_BYTES = 1024**2
LOOK_AGAIN_S = 0.2
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Wanted:
    """What a reader asks for. `limit` is of results; None: all."""

    after: int = 0
    limit: int | None = None
    is_following: bool = False


class StoredResults:
    """Reads for as many as come."""

    def __init__(self, keeper: JournalKeeper, batches: DetachedBatches, keepalive_s: float) -> None:
        self._keeper = keeper
        self._batches = batches
        self._keepalive_s = keepalive_s

    async def lines(self, stored: StoredBatch, wanted: Wanted) -> AsyncIterator[bytes]:
        """Pieces of whole lines: results in order of seq, progress while there are none, and in the end the summary, or
        a progress line where there is more to come. `limit` is not of items that are made up: no `after` goes on from
        one of them. Raises JournalUnavailable, and NoSuchBatch when the batch is deleted meanwhile.
        """
        if wanted.is_following:
            yield await self._progress(stored)
        seq, left = wanted.after, wanted.limit
        seen = seq  # all up to it were asked for; a seq may be missing, of a result that was taken back
        while left is None or left > 0:
            batch = self._batches.find(stored.ordinal)
            news = batch.news if batch is not None else None
            found = await self._journal.results_after(
                stored.ordinal, seq, min(WINDOW_RESULTS, left or WINDOW_RESULTS), WINDOW_BYTES
            )
            if found:
                seq = found[-1].seq
                left = None if left is None else left - len(found)
                yield b"".join(numbered(result.seq, result.body) for result in found)
                continue
            stored = await self._journal.of_ordinal(stored.ordinal)
            if stored.last_seq > max(seen, seq):
                seen = stored.last_seq
                continue
            if stored.state in ENDED:
                async for item in self._unfinished(stored):
                    yield numbered(stored.last_seq, _made_up(stored, item))
                yield _encode(summary_of(stored)) + b"\n"
                return
            if not wanted.is_following or self._batches.is_stopping.is_set():
                break
            if not await self._comes_soon(news):
                yield await self._progress(stored)
        yield await self._progress(stored)

    async def whole(self, stored: StoredBatch) -> AsyncIterator[bytes]:
        """The answer at once: spaces until the batch has ended, then one JSON object with the results in the order of
        their items. Raises BrokenOff when the service stops, and what `lines` does.
        """
        yield b" "
        spoke = time.monotonic()
        while True:
            batch = self._batches.find(stored.ordinal)
            if batch is None:
                with contextlib.suppress(JournalUnavailable):
                    stored = await self._journal.of_ordinal(stored.ordinal)
                if stored.state in ENDED:
                    break
            if self._batches.is_stopping.is_set():
                raise BrokenOff("the service is stopping")
            await self._comes_soon(None if batch is None else batch.news)
            if time.monotonic() >= spoke + self._keepalive_s:
                yield b" "
                spoke = time.monotonic()
        head = {"id": stored.id, "object": "batch_generation", "model": stored.model}
        yield _encode(head | {"created_at": int(stored.created_at)})[:-1] + b',"results":['
        is_first = True
        async for body in self._in_order(stored):
            yield body if is_first else b"," + body
            is_first = False
        summary = summary_of(stored)
        tail = {"request_counts": summary.request_counts, "usage": summary.usage, "stats": summary.stats}
        yield b"]," + _encode(tail)[1:]

    async def _in_order(self, stored: StoredBatch) -> AsyncIterator[bytes]:
        """All results by index, those made up for items that have none among them."""
        index = -1
        rest = self._unfinished(stored)
        missing = await anext(rest, None)
        while index < stored.size - 1:
            found = await self._journal.results_by_index(stored.ordinal, index, WINDOW_RESULTS, WINDOW_BYTES)
            for result in found:
                while missing is not None and missing.index < result.index:
                    yield _made_up(stored, missing)
                    missing = await anext(rest, None)
                yield result.body
            if not found:
                break
            index = found[-1].index
        while missing is not None:
            yield _made_up(stored, missing)
            missing = await anext(rest, None)

    async def _unfinished(self, stored: StoredBatch) -> AsyncIterator[StoredItem]:
        """Of a batch that has ended, but for one that is being resumed just now."""
        if not stored.unfinished or stored.state not in REST:
            return
        after = -1
        while found := await self._journal.unfinished_items(stored.ordinal, after, WINDOW_RESULTS, WINDOW_BYTES):
            for item in found:
                yield item
            after = found[-1].index

    async def _progress(self, stored: StoredBatch) -> bytes:
        with contextlib.suppress(JournalUnavailable):
            stored = await self._journal.of_ordinal(stored.ordinal)
        return _encode(progress_of(stored, self.figures(stored))) + b"\n"

    def figures(self, stored: StoredBatch) -> Figures:
        """Of a batch's run, if it runs."""
        batch = self._batches.find(stored.ordinal)
        return Figures() if batch is None else batch.figures

    async def _comes_soon(self, news: asyncio.Event | None) -> bool:
        """Whether there is news, or the service stops, before the client has to hear something. None: of a batch that
        is just being taken up, or was ended while it was looked for."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(self._keepalive_s, LOOK_AGAIN_S) if news is None else self._keepalive_s):
                await (news or self._batches.is_stopping).wait()
        return news is None or news.is_set()

    @property
    def _journal(self) -> Journal:
        return self._keeper.journal


def numbered(seq: int, body: bytes) -> bytes:
    """A result's line, its seq first."""
    return as_line(b'{"seq":%d,' % seq + body[1:])


_REST_STATUS: dict[ResultStatus, Status] = {
    ResultStatus.CANCELLED: "cancelled",
    ResultStatus.TIMEOUT: "timeout",
    ResultStatus.ERROR: "error",
}


def _made_up(stored: StoredBatch, item: StoredItem) -> bytes:
    status = _REST_STATUS[REST[stored.state]]
    returns_prompts = bool(decode_options(stored.options).return_prompt)
    label = NO_LABEL if refusal_of(item.body) else label_of(item.body, returns_prompts=returns_prompts)
    error = ItemError(ItemErrorCode.ENGINE_ERROR, stored.reason or "the batch failed") if status == "error" else None
    result = None if error is None else Result(0, Outcome.ERROR, error=error)
    return encode_result(item.index, label, status, result, None, 0)
