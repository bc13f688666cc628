"""A batch that runs: its items, what is counted while they do, and exactly one result for each to its sink."""

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from app.batches.record import BatchRecord
from app.batches.results import RequestCounts, Status, Usage, encode_result
from app.batches.sink import Rest, ResultSink
from app.batches.stats import StatsKeeper
from app.dispatch.item import Flow, Item
from app.logs import get_logger
from app.traces import BatchTrace
from engines.contract.protocol import ItemError, ItemErrorCode, Outcome, Result

logger = get_logger("batches")
_STATUS: dict[Outcome, Status] = {
    Outcome.OK: "ok",
    Outcome.ERROR: "error",
    Outcome.ABORTED: "cancelled",
    Outcome.LOST: "error",
}
SinkT_co = TypeVar("SinkT_co", bound=ResultSink, covariant=True)


class BatchRun(Generic[SinkT_co]):
    """From the first item to the last result. An ItemSink of the dispatcher."""

    def __init__(
        self,
        record: BatchRecord,
        sink: SinkT_co,
        on_done: Callable[["BatchRun[ResultSink]"], None],
        trace: BatchTrace | None = None,
    ) -> None:
        self.record = record
        self.sink = sink
        self.flow = Flow(record.priority, record.owner)
        self.items: list[Item] = []  # those that ranks are to run
        self.counts: dict[Status, int] = {"ok": 0, "error": 0, "cancelled": 0, "timeout": 0}
        self.usage = Usage()
        self.stats = StatsKeeper()
        self.trace = trace or BatchTrace()
        self.done = asyncio.Event()
        self._open = bytearray(b"\1" * record.size)  # 1 for each item that has no result
        self._remaining = record.size
        self._on_done = on_done
        self._tells_items = logger.is_enabled_for(logging.DEBUG)  # asked once: there may be 100,000 of them

    @property
    def tokens(self) -> int:
        """What its items may cost."""
        return sum(item.cost for item in self.items)

    @property
    def ended(self) -> int:
        """Items that have their result."""
        return self.record.size - self._remaining

    @property
    def request_counts(self) -> RequestCounts:
        """What the answer says of its items, so far."""
        return RequestCounts(total=self.record.size, **self.counts)

    def refuse(self, index: int, error: ItemError) -> None:
        """An item that no rank will see. `error.param` is the full place in the request."""
        self._record(index, "error", Result(0, Outcome.ERROR, error=error), None, 0, place="")

    def item_started(self, item: Item, rank: int) -> None:
        """The dispatcher is about to send the item to a rank."""
        self.stats.started(rank)
        item.trace = self.trace.started(item.index, item.attempts, rank, item.incarnation)
        if self._tells_items:
            logger.debug("item_dispatched", **self._ids_of(item))

    def item_lost(self, item: Item, rank: int) -> None:
        """The rank was lost with the item, which will run again."""
        self.stats.released(rank)
        self.trace.finished(item.index, "lost", None)
        if self._tells_items:
            logger.debug("item_lost", **self._ids_of(item))

    def item_finished(self, item: Item, result: Result, rank: int | None) -> None:
        """The dispatcher has the item's result."""
        if rank is not None:
            self.stats.finished(rank, result)
        self.usage.add(result)
        place = f"prompts[{item.index}]"
        self._record(item.index, _STATUS[result.outcome], result, rank, item.attempts, place)

    def end(self, status: Status, error: ItemError | None = None) -> None:
        """Every item that has no result gets this one. The dispatcher must have forgotten the items before."""
        if self._remaining == 0:
            return
        result = None if error is None else Result(0, Outcome.ERROR, error=error)
        attempts = {item.index: item.attempts for item in self.items if item.attempts}
        label = self.record.label

        def read(index: int) -> bytes:
            return encode_result(index, label(index), status, result, None, attempts.get(index, 0))

        is_open, self._open = self._open, bytearray()
        self.sink.close(Rest(is_open, read))
        self._count(status, self._remaining)

    def _record(self, index: int, status: Status, result: Result, rank: int | None, attempts: int, place: str) -> None:
        if not self._open or not self._open[index]:
            raise RuntimeError(f"item {index} of {self.record.id} has a result already")
        self._open[index] = 0
        label = self.record.take_label(index)
        self.sink.put(index, encode_result(index, label, status, result, rank, attempts, place))
        code = None if result.error is None else str(result.error.code)
        self.trace.finished(index, status, code)
        if code == ItemErrorCode.POISONED:
            logger.warning("item_poisoned", batch=self.record.id, index=index, rank=rank, attempts=attempts)
        if self._tells_items:
            ids = {"batch": self.record.id, "index": index, "rank": rank}
            logger.debug("item_ended", **ids, status=status, code=code, attempts=attempts)
        if self._remaining == 1:
            self.sink.close(None)
        self._count(status, 1)

    def _count(self, status: Status, items: int) -> None:
        self.counts[status] += items
        self._remaining -= items
        if self._remaining == 0:
            self.stats.end()
            self.trace.ended(self.counts.items())
            self.done.set()
            self._on_done(self)

    def _ids_of(self, item: Item) -> dict[str, object]:
        ids = {"rank": item.rank, "incarnation": item.incarnation, "attempt": item.attempts}
        return {"batch": self.record.id, "index": item.index, **ids}
