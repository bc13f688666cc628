"""One accepted request: its items, their results in order, and what is left to do."""

import asyncio
import time
import uuid
from collections.abc import Callable

import msgspec

from app.batches.memory import Holding
from app.batches.results import Status, Usage, encode_result
from app.batches.stats import StatsKeeper
from app.dispatch.item import Flow, Item
from engines.protocol import ItemError, Outcome, Result

_STATUS: dict[Outcome, Status] = {Outcome.OK: "ok", Outcome.ERROR: "error", Outcome.ABORTED: "cancelled"}


class Batch:
    """Collects exactly one result per item. An ItemSink of the dispatcher."""

    def __init__(
        self,
        size: int,
        model: str,
        priority: int,
        on_done: Callable[["Batch"], None],
        holding: Holding | None = None,
    ) -> None:
        self.id = f"batchgen-{uuid.uuid4().hex}"
        self.model = model
        self.created_at = int(time.time())
        self.flow = Flow(priority)
        self.items: list[Item] = []  # those that ranks are to run
        self.results: list[bytes | None] = [None] * size
        self.counts: dict[Status, int] = {"ok": 0, "error": 0, "cancelled": 0, "timeout": 0}
        self.usage = Usage()
        self.stats = StatsKeeper()
        self.done = asyncio.Event()
        self.holding = holding  # what its results count for
        self._remaining = size
        self._on_done = on_done
        self._custom_ids: dict[int, str] = {}
        self._metadata: dict[int, bytes] = {}
        self._rest: _Rest | None = None

    @property
    def size(self) -> int:
        """Items altogether."""
        return len(self.results)

    @property
    def tokens(self) -> int:
        """What its items may cost."""
        return sum(item.cost for item in self.items)

    def describe(self, index: int, custom_id: str | None, metadata: bytes | None) -> None:
        """What an item's result hands back."""
        if custom_id is not None:
            self._custom_ids[index] = custom_id
        if metadata is not None:
            self._metadata[index] = metadata

    def refuse(self, index: int, error: ItemError) -> None:
        """An item that no rank will see. `error.param` is the full place in the request."""
        self._record(index, "error", Result(0, Outcome.ERROR, error=error), None, 0, place="")

    def item_started(self, item: Item, rank: int) -> None:
        """The dispatcher has sent the item to a rank."""
        self.stats.started(rank)

    def item_finished(self, item: Item, result: Result, rank: int | None) -> None:
        """The dispatcher has the item's result."""
        if rank is not None:
            self.stats.finished(rank, result)
        self.usage.add(result)
        place = f"prompts[{item.index}]"
        self._record(item.index, _STATUS[result.outcome], result, rank, item.attempts, place)

    def end(self, status: Status, error: ItemError | None = None) -> None:
        """Every item that has no result gets this one. The dispatcher must have forgotten the items before.

        They are encoded when they are read: there may be many, and a client that has gone reads none.
        """
        if self._remaining == 0:
            return
        self._rest = _Rest(
            status,
            None if error is None else Result(0, Outcome.ERROR, error=error),
            {item.index: item.attempts for item in self.items if item.attempts},
        )
        self._count(status, self._remaining)

    def result(self, index: int) -> bytes:
        """The JSON of one result. Raises LookupError before there is one."""
        known = self.results[index]
        if known is not None:
            return known
        if self._rest is None:
            raise LookupError(f"item {index} of {self.id} has no result yet")
        rest = self._rest
        return self._encode(index, rest.status, rest.result, None, rest.attempts.get(index, 0), place="")

    def _record(
        self, index: int, status: Status, result: Result | None, rank: int | None, attempts: int, place: str
    ) -> None:
        if self.results[index] is not None or self._rest is not None:
            raise RuntimeError(f"item {index} of {self.id} has a result already")
        encoded = self.results[index] = self._encode(index, status, result, rank, attempts, place)
        if self.holding is not None:
            self.holding.add(len(encoded))
        self._count(status, 1)

    def _encode(
        self, index: int, status: Status, result: Result | None, rank: int | None, attempts: int, place: str
    ) -> bytes:
        custom_id, metadata = self._custom_ids.pop(index, None), self._metadata.pop(index, None)
        return encode_result(index, custom_id, metadata, status, result, rank, attempts, place)

    def _count(self, status: Status, items: int) -> None:
        self.counts[status] += items
        self._remaining -= items
        if self._remaining == 0:
            self.stats.end()
            self.done.set()
            self._on_done(self)


class _Rest(msgspec.Struct, frozen=True):
    """What all items without a result of their own have."""

    status: Status
    result: Result | None
    attempts: dict[int, int]  # by index, of those that have run
