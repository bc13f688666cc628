"""The one thread that writes. What comes within some milliseconds is one commit; callers go on when it is durable.

When the database cannot write, all who wait are told so at once, and so is whoever comes until it can again: the thread
goes on trying, ever less often. Nothing is said to be stored that a commit has not stored.
"""

import asyncio
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from app.journal.errors import JournalError, JournalRefusal, JournalUnavailable, Superseded
from app.journal.health import Health, OnCommit, OnHealth
from app.journal.records import PutReport
from app.journal.room import Room
from app.journal.sql import results
from app.journal.sql.results import Put
from app.journal.sql.store import Store
from app.logs import get_logger

if TYPE_CHECKING:
    from sqlalchemy import Connection

logger = get_logger("journal")
T = TypeVar("T")
GROUP_S = 0.004  # between the beginnings of two commits, at least: what comes meanwhile is one
MAX_GROUP_WRITES = 1000
MAX_GROUP_BYTES = 16 * 1024**2
MAX_WAITING_WRITES = 4096
MAX_WAITING_BYTES = 64 * 1024**2
FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 15.0


class Work(Generic[T]):
    """A write, and who waits for it: results, which many writes together put, or anything else."""

    __slots__ = ("future", "outcome", "run", "size")

    def __init__(self, run: "Put | Callable[[Connection], T]", size: int, future: asyncio.Future[T]) -> None:
        self.run = run
        self.size = min(size, MAX_WAITING_BYTES)
        self.future = future
        self.outcome: T | BaseException | None = None


AnyWork = Work[Any]  # Any: whatever each comes to


class Writer:
    """Begun with `start`, within the event loop whose callers it serves."""

    def __init__(self, store: Store, on_health: OnHealth, on_commit: OnCommit) -> None:
        self._store = store
        self._on_health = on_health
        self._on_commit = on_commit
        self._loop = asyncio.get_running_loop()
        self._room = Room(MAX_WAITING_WRITES, MAX_WAITING_BYTES)
        self._queue: deque[AnyWork] = deque()
        self._wake = threading.Condition()
        self._is_closing = False
        self._trouble: JournalError | None = None
        self._retry_s = FIRST_RETRY_S
        self._begun_at = 0.0  # the latest group
        self._thread = threading.Thread(target=self._main, name="journal writer", daemon=True)
        self.commits = 0

    def start(self) -> None:
        """Begins to write."""
        self._thread.start()

    async def write(self, run: "Callable[[Connection], T]", size: int = 0) -> T:
        """What `run` comes to, durable. `size` is about how many bytes it holds. Waits while too much waits."""
        done: asyncio.Future[T] = self._loop.create_future()
        return await self._submit(Work(run, size, done))

    async def put(self, put: Put, size: int) -> PutReport:
        """Results, together with others'."""
        done: asyncio.Future[PutReport] = self._loop.create_future()
        return await self._submit(Work(put, size, done))

    async def _submit(self, work: Work[T]) -> T:
        await self._room.take(work.size)
        with self._wake:  # whatever is in the queue when the thread gives up is answered
            refusal = self._refusal()
            if refusal is None:
                self._queue.append(work)
                self._wake.notify()
        if refusal is not None:
            self._room.give(work.size)
            await asyncio.sleep(0)  # what the thread has told of its trouble is heard first
            raise refusal
        return await work.future

    async def close(self) -> None:
        """Writes what waits, and ends. May be called twice."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)

    def _refusal(self) -> JournalError | None:
        if self._is_closing:
            return JournalUnavailable("the service is stopping")
        return None if self._trouble is None else _again(self._trouble)

    # -- in the thread

    def _main(self) -> None:
        while (group := self._next_group()) is not None:
            try:
                self._commit(group)
            except (JournalUnavailable, Superseded) as error:
                self._give_up(group, error)
                self._come_back()
            else:
                self._retry_s = FIRST_RETRY_S
                self._settle(group)
        self._store.disconnect()

    def _next_group(self) -> list[AnyWork] | None:
        """What has come; None at the end."""
        with self._wake:
            self._wake.wait_for(lambda: self._queue or self._is_closing)
            if not self._queue:
                return None
            pause_s = self._begun_at + GROUP_S - time.monotonic()
            if pause_s > 0:
                self._wake.wait_for(lambda: self._is_closing or len(self._queue) >= MAX_GROUP_WRITES, pause_s)
            self._begun_at = time.monotonic()
            group: list[AnyWork] = []
            size = 0
            while self._queue and len(group) < MAX_GROUP_WRITES and (size < MAX_GROUP_BYTES):
                group.append(self._queue.popleft())
                size += group[-1].size
            return group

    def _commit(self, group: Sequence[AnyWork]) -> None:
        began = time.monotonic()
        try:
            with self._store.transaction() as connection:
                for are_results, together in itertools.groupby(group, lambda work: isinstance(work.run, Put)):
                    if are_results:
                        _put(connection, list(together))
                    else:
                        for work in together:
                            _run(connection, work)
            self.commits += 1
            self._on_commit(time.monotonic() - began)
        except JournalError:
            raise
        except Exception as error:  # a bug, or a value that the database refuses
            if len(group) == 1:
                logger.exception("journal_write_failed")
                group[0].outcome = error
                return
            for work in group:  # the others are not to suffer
                self._commit([work])

    def _give_up(self, group: Sequence[AnyWork], error: JournalError) -> None:
        with self._wake:
            self._trouble = error
            waiting = [*group, *self._queue]
            self._queue.clear()
            # Under the lock and first, so that whoever is refused finds that known.
            if isinstance(error, JournalUnavailable):
                self._tell(Health.UNAVAILABLE, error.reason)
            else:
                self._tell(Health.SUPERSEDED, str(error))
        if isinstance(error, JournalUnavailable):
            logger.error("journal_unavailable", reason=str(error))
        else:
            logger.error("journal_superseded", reason=str(error))
        for work in waiting:
            work.outcome = _again(error)
        self._settle(waiting)

    def _come_back(self) -> None:
        """Tries until the database takes writes again, this gateway has lost it, or the service stops."""
        since = time.monotonic()
        while isinstance(self._trouble, JournalUnavailable):
            with self._wake:
                if self._wake.wait_for(lambda: self._is_closing, self._retry_s):
                    return
            self._retry_s = min(2 * self._retry_s, LONGEST_RETRY_S)  # shorter again after a commit
            try:
                self._store.reconnect()
            except JournalUnavailable as error:
                self._trouble = error
            except Exception as error:  # noqa: BLE001  the edge: what cannot be used is not ours any more
                lost = error if isinstance(error, Superseded) else Superseded(str(error))
                self._give_up([], lost)
            else:
                self._trouble = None
                logger.info("journal_available", after_s=round(time.monotonic() - since, 1))
                self._tell(Health.AVAILABLE, "")

    def _settle(self, group: Sequence[AnyWork]) -> None:
        if group:
            self._call(lambda: self._answer(group))

    def _tell(self, health: Health, reason: str) -> None:
        self._call(lambda: self._on_health(health, reason))

    def _call(self, act: Callable[[], None]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(act)

    # -- in the event loop again

    def _answer(self, group: Sequence[AnyWork]) -> None:
        for work in group:
            self._room.give(work.size)
            if work.future.done():  # nobody waits any more
                continue
            if isinstance(work.outcome, BaseException):
                work.future.set_exception(work.outcome)
            else:
                work.future.set_result(work.outcome)


def _run(connection: "Connection", work: AnyWork) -> None:
    if isinstance(work.run, Put):
        _put(connection, [work])
        return
    try:
        work.outcome = work.run(connection)
    except JournalRefusal as refusal:  # raised before anything was written
        work.outcome = refusal


def _put(connection: "Connection", group: Sequence[AnyWork]) -> None:
    outcomes = results.put(connection, [work.run for work in group if isinstance(work.run, Put)])
    for work, outcome in zip(group, outcomes, strict=True):
        work.outcome = outcome


def _again(error: JournalError) -> JournalError:
    """The same error as another object: each who waits raises his own."""
    if isinstance(error, JournalUnavailable):
        return JournalUnavailable(error.reason, error.detail)
    return Superseded(str(error))
