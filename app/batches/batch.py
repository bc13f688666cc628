"""One accepted request: its items, their results in order, and what is left to do."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable

import msgspec

from app.batches.memory import Holding
from app.batches.results import Status, Usage, encode_result
from app.batches.stats import StatsKeeper
from app.dispatch.item import EVERYBODY, Flow, Item, Owner
from app.logs import current_ids, get_logger
from app.traces import BatchTrace
from engines.contract.protocol import ItemError, ItemErrorCode, Outcome, Result

logger = get_logger("batches")
_STATUS: dict[Outcome, Status] = {
    Outcome.OK: "ok",
    Outcome.ERROR: "error",
    Outcome.ABORTED: "cancelled",
    Outcome.LOST: "error",
}


class Batch:
    """Collects exactly one result per item. An ItemSink of the dispatcher."""

    def __init__(
        self,
        size: int,
        model: str,
        priority: int,
        on_done: Callable[["Batch"], None],
        owner: Owner = EVERYBODY,
        holding: Holding | None = None,
    ) -> None:
        self.id = f"batchgen-{secrets.token_hex(16)}"
        self.request_ids = current_ids()
        self.model = model
        self.created_at = int(time.time())
        self.flow = Flow(priority, owner)
        self.items: list[Item] = []  # those that ranks are to run
        self.results: list[bytes | None] = [None] * size
        self.counts: dict[Status, int] = {"ok": 0, "error": 0, "cancelled": 0, "timeout": 0}
        self.usage = Usage()
        self.stats = StatsKeeper()
        self.trace = BatchTrace()
        self.done = asyncio.Event()
        self.holding = holding  # what its results count for
        self._remaining = size
        self._on_done = on_done
        self._tells_items = logger.is_enabled_for(logging.DEBUG)  # asked once: there may be 100,000 of them
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
        code = _code_of(result)
        self.trace.finished(index, status, code)
        if code == ItemErrorCode.POISONED:
            logger.warning("item_poisoned", batch=self.id, index=index, rank=rank, attempts=attempts)
        if self._tells_items:
            ids = {"batch": self.id, "index": index, "rank": rank}
            logger.debug("item_ended", **ids, status=status, code=code, attempts=attempts)
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
            self.trace.ended(self.counts.items())
            self.done.set()
            self._on_done(self)

    def _ids_of(self, item: Item) -> dict[str, object]:
        ids = {"rank": item.rank, "incarnation": item.incarnation, "attempt": item.attempts}
        return {"batch": self.id, "index": item.index, **ids}


class _Rest(msgspec.Struct, frozen=True):
    """What all items without a result of their own have."""

    status: Status
    result: Result | None
    attempts: dict[int, int]  # by index, of those that have run


def _code_of(result: Result | None) -> str | None:
    return None if result is None or result.error is None else str(result.error.code)
