"""Keeps a batch that comes in windows supplied: reads the next items when few are left waiting, and never more of them.

The window bounds what the gateway holds of a batch, whatever its size. It gets smaller as the backlog fills up, so that
there is room for those who send a whole batch at once.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias

import msgspec

from app.batches.run import BatchRun
from app.batches.sink import ResultSink
from app.batches.turnstile import Turnstile
from app.dispatch.dispatcher import Dispatcher
from app.dispatch.item import Flow, Item
from app.journal.errors import JournalUnavailable
from app.journal.records import StoredItem
from app.logs import get_logger
from engines import tasks

logger = get_logger("batches")
FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 15.0


class ItemSource(Protocol):
    """Where the items of a batch are kept."""

    async def window(self, after: int, limit: int, max_bytes: int) -> list[StoredItem]:
        """Items that have no result, by index, above `after`: `limit` of them at most, and no more bytes of bodies than
        `max_bytes`, but one in any case. None: there are no more now, and when the run is complete, none at all.
        """


class TakesIn(Protocol):
    """Makes items of what is kept, and tells the run of each."""

    async def take(
        self, prompts: Iterable[tuple[int, bytes]], turnstile: Turnstile, max_wire_bytes: int | None = None
    ) -> list[Item]:
        """Those that run, in order; of the others the run has the refusal. It may end early at `max_wire_bytes`."""


class Window(msgspec.Struct, frozen=True):
    """How much of a batch may wait in the gateway. What runs on ranks comes on top."""

    items: int = 1000
    bytes: int = 8 * 1024**2  # read at a time, and of its items' own sampling parameters


Room: TypeAlias = Callable[[Flow], int]  # items that a flow may add to the backlog now
Retry: TypeAlias = Callable[[Exception, int], float | None]  # after how many seconds, this being so manieth failure
OnError: TypeAlias = Callable[[BatchRun[ResultSink], BaseException], None]


def items_to_read(flow: Flow, window_items: int, room: Room) -> int:
    """Of a batch, now: what fills its window again, and the backlog has room for. None while half of it is left."""
    waiting = len(flow.waiting)
    return 0 if 2 * waiting >= window_items else min(window_items - waiting, room(flow))


def retry_while_unavailable(error: Exception, failures: int) -> float | None:
    """Waits for a journal that cannot be read now, longer each time, and for nothing else."""
    if not isinstance(error, JournalUnavailable):
        return None
    return min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(failures - 1, 10))


class Feeder:
    """Of one run, which ends it when it is done, cancelled or dropped: see Runs.

    An error that `retry` does not wait for stops the feeder and is told to `on_error`. The run is left as it is, with
    what it has waiting: whoever is told ends or drops it.
    """

    def __init__(
        self,
        run: BatchRun[ResultSink],
        intake: TakesIn,
        source: ItemSource,
        dispatcher: Dispatcher,
        turnstile: Turnstile,
        *,
        room: Room,
        on_error: OnError,
        window: Callable[[], Window] = Window,
        retry: Retry = retry_while_unavailable,
    ) -> None:
        self._run = run
        self._intake = intake
        self._source = source
        self._dispatcher = dispatcher
        self._turnstile = turnstile
        self._room = room
        self._on_error = on_error
        self._window = window
        self._retry = retry
        self._wake = asyncio.Event()
        self._dry: tuple[int, bool] | None = None  # what the run expected when the source had nothing more
        self._is_ended = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Reads from now on. Does nothing after `end`."""
        if self._is_ended:
            return
        self._dispatcher.backlog.open(self._run.flow)
        self._run.watch(self._wake_when_lacking)
        self._task = tasks.start(self._feed(), f"feeder of {self._run.record.id}", self._fail)

    def end(self) -> None:
        """Reads nothing more. May be called in any state, and twice."""
        self._is_ended = True
        self._dispatcher.backlog.close(self._run.flow)
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        """The same, and returns when nothing of it goes on any more."""
        self.end()
        await tasks.end(self._task)

    @property
    def is_stopped(self) -> bool:
        """Whether nothing of it goes on, or ever will."""
        return self._is_ended and (self._task is None or self._task.done())

    async def _feed(self) -> None:
        while True:
            self._wake.clear()
            limit = self._lacking()
            if not limit:
                await self._wake.wait()
                continue
            expected = self._expected()
            found = await self._read(limit)
            if found:
                await self._take(found)
            elif self._run.is_complete and expected == self._expected():
                break
            else:
                self._dry = expected
        self._dispatcher.backlog.close(self._run.flow)
        if self._run.missing:
            raise LookupError(f"{self._run.missing} items of {self._run.record.id} are not where they are kept")

    async def _read(self, limit: int) -> list[StoredItem]:
        for failures in itertools.count(1):
            try:
                return await self._source.window(self._run.last_taken, limit, self._window().bytes)
            except Exception as error:
                pause_s = self._retry(error, failures)
                if pause_s is None:
                    raise
                logger.warning("items_unavailable", batch=self._run.record.id, error=str(error), retry_s=pause_s)
                await asyncio.sleep(pause_s)
        raise AssertionError("unreachable")

    async def _take(self, found: list[StoredItem]) -> None:
        """Should the batch end meanwhile, this is cancelled while it pauses, and nothing is submitted."""
        await self._turnstile.enter()
        prompts = ((item.index, item.body) for item in found)
        items = await self._intake.take(prompts, self._turnstile, self._window().bytes)
        self._dispatcher.submit(self._run.flow, items)

    def _lacking(self) -> int:
        """How many items to read now."""
        if self._dry == self._expected():
            return 0
        return items_to_read(self._run.flow, self._window().items, self._room)

    def _expected(self) -> tuple[int, bool]:
        """What the run knows of items to come: with more of them, or their end, the source is asked again."""
        return self._run.total, self._run.is_complete

    def _wake_when_lacking(self) -> None:
        if not self._wake.is_set() and self._lacking():
            self._wake.set()

    def _fail(self, _: str, error: BaseException) -> None:
        self._on_error(self._run, error)
