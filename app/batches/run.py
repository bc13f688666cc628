"""A batch that runs: its items, what is counted while they do, and exactly one result for each to its sink.

Items come into the run in the order of their indexes, all at once or window by window, and leave it with their
results: what is kept of each is kept for those that are in it.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from app.batches.forecasts import RunForecast
from app.batches.record import NO_LABEL, BatchRecord, Label
from app.batches.results import ItemEnd, RequestCounts, Status, Usage
from app.batches.shape import ITEM_SHAPE, ResultShape
from app.batches.sink import Rest, ResultSink
from app.batches.stats import StatsKeeper
from app.dispatch.item import Flow, Item
from app.logs import get_logger
from app.traces import BatchTrace
from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.protocol import Outcome, Result

logger = get_logger("batches")
SinkT_co = TypeVar("SinkT_co", bound=ResultSink, covariant=True)


class BatchRun(Generic[SinkT_co]):
    """From the first item to the last result. An ItemSink of the dispatcher.

    `expect` says how many items there are, as far as that is known, and `complete` that these are all. A run that goes
    on with a batch after a restart is given the `counts` and the `usage` of the results that were had before.
    """

    def __init__(
        self,
        record: BatchRecord,
        sink: SinkT_co,
        on_done: Callable[["BatchRun[ResultSink]"], None],
        trace: BatchTrace | None = None,
        *,
        counts: Mapping[Status, int] | None = None,
        usage: Usage | None = None,
        label_untaken: Callable[[int], Label] = lambda _: NO_LABEL,
        shape: ResultShape = ITEM_SHAPE,
    ) -> None:
        self.record = record
        self.sink = sink
        self.flow = Flow(record.priority, record.owner)
        self.total = 0  # items, those counted in that have not come yet
        self.is_complete = False  # whether no more will be expected
        self.last_taken = -1  # the highest index that has come into the run
        self.counts: dict[Status, int] = {"ok": 0, "error": 0, "cancelled": 0, "timeout": 0, **(counts or {})}
        self.ended = sum(self.counts.values())  # items that have their result
        self.usage = usage or Usage()
        self.stats = StatsKeeper()
        self.forecast: RunForecast | None = None  # once it has begun
        self.trace = trace or BatchTrace()
        self.started = asyncio.Event()  # an item has been sent to a rank
        self.done = asyncio.Event()
        self._window: dict[int, Item | None] = {}  # in order; None for one that is no item yet, or is being refused
        self._on_done = on_done
        self._on_change: Callable[[], None] = lambda: None
        self._shape = shape
        self._label_untaken = label_untaken  # of an item that no window had reached when the run ended
        self._tells_items = logger.is_enabled_for(logging.DEBUG)  # asked once: there may be 100,000 of them

    # -- items come

    def expect(self, items: int) -> None:
        """So many more items will come, behind the others. Not to be called once the run is complete, or done."""
        if self.is_complete:
            raise RuntimeError(f"{self.record.id} is complete: no more items can be expected")
        self.total += items
        self._on_change()

    def complete(self) -> None:
        """No more items will be expected: the run is done with its last result, and now if that is there.

        May be called twice, and after the end.
        """
        if self.is_complete:
            return
        self.is_complete = True
        self._on_change()
        self._end_when_done()

    def take(self, index: int) -> None:
        """The prompt at this index has come: from now on it is owed a result. Its item follows, or a refusal."""
        if not self.last_taken < index < self.total:
            raise RuntimeError(f"item {index} of {self.record.id} comes after {self.last_taken}, of {self.total}")
        self.last_taken = index
        self._window[index] = None

    def add(self, item: Item) -> None:
        """What has become of a prompt that was taken."""
        self._window[item.index] = item
        if self.forecast is not None:
            self.forecast.item_came(item)

    def watch(self, on_change: Callable[[], None]) -> None:
        """Calls it from now on when an item has left the backlog, and when more are expected or no more will be."""
        self._on_change = on_change

    @property
    def items(self) -> list[Item]:
        """Those that have come and have no result."""
        return [item for item in self._window.values() if item is not None]

    @property
    def missing(self) -> int:
        """Items without a result that have not come yet."""
        return self.total - self.ended - len(self._window)

    @property
    def request_counts(self) -> RequestCounts:
        """What the answer says of its items, so far."""
        return RequestCounts(total=self.total, **self.counts)

    # -- results come

    def refuse(self, index: int, error: ItemError) -> None:
        """An item that no rank will see. `error.param` is the full place in the request."""
        self._record(index, "error", Result(0, Outcome.ERROR, error=error), None, 0, place="")

    def item_started(self, item: Item, rank: int) -> None:
        """The dispatcher is about to send the item to a rank."""
        self.stats.started(rank, item)
        self.started.set()
        if self.forecast is not None:
            self.forecast.item_started(item)
        item.trace = self.trace.started(item.index, item.attempts, rank, item.incarnation)
        if self._tells_items:
            logger.debug("item_dispatched", **self._ids_of(item))
        self._on_change()

    def item_lost(self, item: Item, rank: int) -> None:
        """The rank was lost with the item, which will run again."""
        self.stats.released(rank, item)
        if self.forecast is not None:
            self.forecast.item_lost(item)
        self.trace.finished(item.index, "lost", None)
        if self._tells_items:
            logger.debug("item_lost", **self._ids_of(item))

    def item_finished(self, item: Item, result: Result, rank: int | None) -> None:
        """The dispatcher has the item's result."""
        if rank is not None:
            self.stats.finished(rank, item, result)
        if self.forecast is not None:
            self.forecast.item_finished(item, result)
        self.usage.add(result)
        place = f"prompts[{item.index}]"
        self._record(item.index, self._shape.status(result), result, rank, item.attempts, place)

    def end(self, status: Status, error: ItemError | None = None) -> None:
        """Every item that has no result gets this one. The dispatcher must have forgotten the items before."""
        if self.done.is_set():
            return
        result = None if error is None else Result(0, Outcome.ERROR, error=error)
        attempts = {item.index: item.attempts for item in self.items if item.attempts}
        untaken = range(self.last_taken + 1, self.total)

        def read(index: int) -> bytes:
            label = self._label_untaken(index) if index in untaken else self.record.label(index)
            return self._shape.encode(ItemEnd(index, label, status, result, attempts=attempts.get(index, 0)))

        rest = Rest(tuple(self._window), untaken, read)
        self._window.clear()
        self.is_complete = True
        self._count(status, self.total - self.ended)
        self._end_when_done(rest)

    def _record(self, index: int, status: Status, result: Result, rank: int | None, attempts: int, place: str) -> None:
        if index not in self._window:
            raise RuntimeError(f"item {index} of {self.record.id} has a result already, or never came")
        del self._window[index]
        label = self.record.take_label(index)
        encoded = self._shape.encode(ItemEnd(index, label, status, result, rank, attempts, place))
        self.sink.put(index, encoded, status, result)
        code = None if result.error is None else str(result.error.code)
        self.trace.finished(index, status, code)
        if code == ItemErrorCode.POISONED:
            logger.warning("item_poisoned", batch=self.record.id, index=index, rank=rank, attempts=attempts)
        if self._tells_items:
            ids = {"batch": self.record.id, "index": index, "rank": rank}
            logger.debug("item_ended", **ids, status=status, code=code, attempts=attempts)
        self._count(status, 1)
        self._end_when_done()

    def _count(self, status: Status, items: int) -> None:
        self.counts[status] += items
        self.ended += items

    def _end_when_done(self, rest: Rest | None = None) -> None:
        if not self.is_complete or self.ended < self.total or self.done.is_set():
            return
        self.sink.close(rest)
        self.stats.end()
        self.trace.ended(self.counts.items())
        self.done.set()
        self._on_done(self)

    def _ids_of(self, item: Item) -> dict[str, object]:
        ids = {"rank": item.rank, "incarnation": item.incarnation, "attempt": item.attempts}
        return {"batch": self.record.id, "index": item.index, **ids}
