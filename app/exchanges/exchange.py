"""One exchange on its way: an item, and what comes of it until its client has taken all."""

import time
from collections.abc import Callable
from typing import Protocol

from app.batches.memory import Holding
from app.dispatch.item import Flow, Item
from app.exchanges.news import News
from app.traces import BatchTrace
from engines.contract.exchanges import STREAM_WINDOW_BYTES, AnswerHead, Exchange
from engines.contract.item_errors import ItemError
from engines.contract.protocol import Chunk, Outcome, Result

TAKEN_BYTES = STREAM_WINDOW_BYTES // 4  # that are told to the rank at once: it need not hear of each token


class Ending:
    """How an answer ends. Without an error it has a head and a body, or all of it has come as a stream."""

    def __init__(self, head: AnswerHead | None = None, body: bytes = b"", error: ItemError | None = None) -> None:
        self.head = head
        self.body = body
        self.error = error

    @property
    def is_refusal(self) -> bool:
        """Whether the engine's application answered with an error."""
        return self.head is not None and self.head.status >= 400


class Answering(Protocol):
    """An answer that comes, as whoever sends it to a client sees it."""

    news: News  # more has come, or the end
    head: AnswerHead | None  # of a stream that has begun

    @property
    def ending(self) -> Ending | None:
        """How it ends, once that is known."""

    def take(self) -> bytes:
        """What has come of a stream, and is not taken."""

    def taken(self, size: int) -> None:
        """The client has so many bytes more."""


class ExchangeRun:
    """An ItemSink of the dispatcher, and what a response reads from.

    A stream that has begun and is lost ends for its client at once, and its item may still be tried, with its output
    discarded: it may have been what crashed the engine.
    """

    def __init__(
        self,
        path: Exchange,
        flow: Flow,
        tenant: str,
        holding: Holding,
        on_taken: Callable[[Item, int], None],
        on_done: Callable[["ExchangeRun", Result], None],
        trace: BatchTrace,
    ) -> None:
        self.path = path
        self.flow = flow
        self.tenant = tenant
        self.is_request = True  # and not only a part of one
        self.news = News()
        self.head: AnswerHead | None = None
        self.ending: Ending | None = None
        self.item: Item
        self.began_at = time.monotonic()
        self.first_byte_s: float | None = None
        self.was_broken_off = False  # its stream had begun when its rank was lost
        self._holding = holding
        self._on_taken = on_taken
        self._on_done = on_done
        self._trace = trace
        self._parts: list[bytes] = []
        self._untold = 0  # bytes taken that the rank has not heard of

    # -- for the response

    def take(self) -> bytes:
        """What has come of a stream, and is not taken."""
        parts, self._parts = self._parts, []
        return b"".join(parts)

    def taken(self, size: int) -> None:
        """The client has so many bytes more."""
        self._holding.give_back(size)
        self._untold += size
        if self._untold >= TAKEN_BYTES and self.ending is None:
            self._on_taken(self.item, self._untold)
            self._untold = 0

    # -- from the dispatcher

    def item_started(self, item: Item, rank: int) -> None:
        """The dispatcher is about to send the item to a rank."""
        item.trace = self._trace.started(item.index, item.attempts, rank, item.incarnation)

    def item_lost(self, item: Item, rank: int) -> None:
        """The rank was lost with the item, which will run again, or be tried."""
        self._trace.finished(item.index, "lost", None)
        if item.has_begun:
            self.was_broken_off = True
            self._end(Ending(error=item.broken_off(Result(item.attempt, Outcome.LOST)).error))

    def item_chunk(self, item: Item, chunk: Chunk) -> None:
        """The next bytes of the answer."""
        if self.ending is not None:
            self._on_taken(item, len(chunk.body))  # it is tried: nobody reads it, and it must not wait for that
            return
        if chunk.head is not None:
            self.head = chunk.head
            self.first_byte_s = time.monotonic() - self.began_at
        self._parts.append(chunk.body)
        self._holding.add(len(chunk.body))
        self.news.set()

    def item_finished(self, item: Item, result: Result, rank: int | None) -> None:
        """The dispatcher has the item's result."""
        self._trace.finished(item.index, "ok" if result.error is None else "error", None)
        if result.error is not None:
            self._end(Ending(error=result.error))
        elif result.outcome is Outcome.ABORTED:
            self._end(Ending())
        else:
            self._holding.add(len(result.outputs))
            self._end(Ending(result.head, result.outputs if result.head is not None else b""))
        self._on_done(self, result)

    def fail(self, error: ItemError) -> None:
        """It gets no result. The dispatcher must have forgotten the item before."""
        self._end(Ending(error=error))

    def _end(self, ending: Ending) -> None:
        if self.ending is None:
            self.ending = ending
            self.news.set()
