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
from app.batches.detached.running import OpenBatch
from app.batches.detached.view import progress_of, summary_of
from app.batches.intake import label_of
from app.batches.one_line import as_line
from app.batches.results import ItemEnd, Status, encode_result
from app.errors import BrokenOff
from app.journal.errors import JournalUnavailable
from app.journal.journal import Journal
from app.journal.keeper import JournalKeeper
from app.journal.records import StoredBatch, StoredItem, StoredResult
from app.journal.states import ENDED, REST
from engines import tasks
from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.protocol import Outcome, Result

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
            found = [] if _has_no_more(batch, seq) else await self._read(stored, seq, left)
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
                async for _, body in self._made_up(stored):
                    yield numbered(stored.last_seq, body)
                yield _encode(summary_of(stored)) + b"\n"
                return
            if not wanted.is_following or self._batches.is_stopping.is_set():
                break
            if not await self._comes_soon(news):
                yield await self._progress(stored)
        yield await self._progress(stored)

    async def _read(self, stored: StoredBatch, seq: int, limit: int | None) -> list[StoredResult]:
        most = min(WINDOW_RESULTS, limit or WINDOW_RESULTS)
        return await self._journal.results_after(stored.ordinal, seq, most, WINDOW_BYTES)

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
        rest = self._made_up(stored)
        missing = await anext(rest, None)
        while index < stored.size - 1:
            found = await self._journal.results_by_index(stored.ordinal, index, WINDOW_RESULTS, WINDOW_BYTES)
            for result in found:
                while missing is not None and missing[0] < result.index:
                    yield missing[1]
                    missing = await anext(rest, None)
                yield result.body
            if not found:
                break
            index = found[-1].index
        while missing is not None:
            yield missing[1]
            missing = await anext(rest, None)

    async def _made_up(self, stored: StoredBatch) -> AsyncIterator[tuple[int, bytes]]:
        """Results, by index, of the items that have none in a batch that has ended. None while it is being resumed."""
        if not stored.unfinished or stored.state not in REST:
            return
        rest, after = _Rest(stored), -1
        while found := await self._journal.unfinished_items(stored.ordinal, after, WINDOW_RESULTS, WINDOW_BYTES):
            for item in found:
                yield item.index, rest.make_up(item)
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
        if news is not None:
            return await tasks.comes_within(news, self._keepalive_s)
        await tasks.comes_within(self._batches.is_stopping, min(self._keepalive_s, LOOK_AGAIN_S))
        return True

    @property
    def _journal(self) -> Journal:
        return self._keeper.journal


def _has_no_more(batch: OpenBatch | None, seq: int) -> bool:
    """Whether the journal need not be asked: all that an open batch has in it is known."""
    return batch is not None and batch.last_seq <= seq


def numbered(seq: int, body: bytes) -> bytes:
    """A result's line, its seq first."""
    return as_line(b'{"seq":%d,' % seq + body[1:])


class _Rest:
    """The results of items that have none in a batch that has ended so, made up one by one."""

    def __init__(self, stored: StoredBatch) -> None:
        self._status: Status = REST[stored.state].value
        self._returns_prompts = bool(decode_options(stored.options).return_prompt)
        self._result: Result | None = None
        if self._status == "error":
            error = ItemError(ItemErrorCode.ENGINE_ERROR, stored.reason or "the batch failed")
            self._result = Result(0, Outcome.ERROR, error=error)

    def make_up(self, item: StoredItem) -> bytes:
        """Its JSON."""
        label = label_of(item.body, returns_prompts=self._returns_prompts)
        return encode_result(ItemEnd(item.index, label, self._status, self._result))
