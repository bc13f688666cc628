"""The journal's life in a gateway: opened before anything is served, closed when nothing writes any more, and between
the two what it tells of itself: whether it takes writes, and how full it is."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from app.errors import FatalError, TryLater
from app.journal.errors import FolderUnusable, JournalUnavailable, Superseded
from app.journal.figures import Figures, read_figures
from app.journal.health import Health, OnCommit
from app.journal.opening import open_journal
from app.journal.place import FolderPlace, Place
from app.journal.records import DayUsage, Quotas
from app.journal.retention import Retention
from app.journal.usage_meter import UsageMeter
from app.logs import get_logger
from engines import tasks
from engines.host.runtime import Runtime

if TYPE_CHECKING:
    from app.journal.journal import Journal

logger = get_logger("journal")
PAUSE_S = 0.5
RETRY_S = 5.0  # for clients; the journal itself tries every 0.5 to 15 s
FIGURES_S = 15.0
TEMPORARY_PREFIX = "phalanx.journal-"


class JournalHealth(msgspec.Struct, frozen=True):
    """Whether batches can be stored, in words that everybody may read. `reason` is null while they can."""

    status: Literal["available", "unavailable"]
    reason: str | None = None


AVAILABLE = JournalHealth("available")


class JournalKeeper:
    """Made inside the running event loop. `place` is None for a journal that ends with the service: it gets a folder
    of its own below `temporary`. `on_failure` is told when another gateway takes the journal over: this one must end.
    """

    def __init__(
        self,
        place: Place | None,
        temporary: Path,
        quotas: Quotas,
        retention_s: float,
        on_commit: OnCommit,
        on_failure: tasks.OnFailure,
    ) -> None:
        self._place = place
        self._temporary = temporary
        self._quotas = quotas
        self._retention_s = retention_s
        self._on_commit = on_commit
        self._on_failure = on_failure
        self._own_folder: Runtime | None = None
        self._journal: Journal | None = None
        self._retention: Retention | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._listeners: list[Callable[[], None]] = []
        self.health = AVAILABLE
        self._is_available = asyncio.Event()
        self._is_available.set()
        self.figures = Figures()
        self.usage = UsageMeter(self._add_usage)

    # -- life

    async def open(self) -> None:
        """Takes the journal over, and begins to look after it. Raises CannotOpen; nothing is left open then."""
        began = time.monotonic()
        place = self._place or self._make_own_place()
        try:
            self._journal = await open_journal(place, self._quotas, self._on_health, self._on_commit)
        except BaseException:
            self._remove_own_place()
            raise
        is_temporary = self._place is None
        open_s = round(time.monotonic() - began, 3)
        logger.info(
            "journal_opened", place=str(place), epoch=self._journal.epoch, temporary=is_temporary, open_s=open_s
        )
        self._retention = Retention(self._journal, self._retention_s)
        self._tasks = [
            tasks.start(self._retention.run(), "retention", self._on_failure),
            tasks.start(self._look(place), "journal figures", self._on_failure),
        ]
        self.usage.start(self._on_failure)

    async def close(self) -> None:
        """Writes what waits, and lets others use the journal. May be called twice, and without `open`."""
        if self._journal is not None:
            await self.usage.stop()
            await tasks.end(*self._tasks)
            await self._journal.close()
        self._remove_own_place()

    @property
    def journal(self) -> "Journal":
        """The journal, from `open` on."""
        if self._journal is None:
            raise RuntimeError("the journal is not open yet")
        return self._journal

    # -- whether it takes writes

    def check(self) -> None:
        """Raises TryLater while no batch can be stored."""
        if self.health.reason is not None:
            raise unavailable(self.health.reason)

    async def until_available(self) -> None:
        """Returns, a moment later at the earliest, when the journal takes writes, as far as is known."""
        await asyncio.sleep(PAUSE_S)
        await self._is_available.wait()

    def on_change(self, callback: Callable[[], None]) -> None:
        """Calls back, in the event loop, whenever writing stops or becomes possible."""
        self._listeners.append(tasks.guarded(callback, "journal's health", self._on_failure))

    def _on_health(self, health: Health, reason: str) -> None:
        if health is Health.AVAILABLE:
            self.health = AVAILABLE
            self.sweep_soon()  # what could not be discarded meanwhile
        elif health is Health.UNAVAILABLE:
            self.health = JournalHealth("unavailable", reason)
        else:
            self.health = JournalHealth("unavailable", "another gateway has taken the journal over")
            self._on_failure("journal", FatalError(reason, 1))
        if self.health.reason is None:
            self._is_available.set()
        else:
            self._is_available.clear()
        for listener in self._listeners:
            listener()

    # -- what is in it

    @property
    def commits(self) -> int:
        """Made so far."""
        return self._journal.commits if self._journal else 0

    async def delete(self, ordinal: int) -> None:
        """A batch that has ended is gone, and its rows soon. Raises WrongState, NoSuchBatch and JournalUnavailable."""
        await self.journal.delete(ordinal)
        self.sweep_soon()

    def sweep_soon(self) -> None:
        """Batches or files were deleted: their rows are to be removed from the disk."""
        if self._retention is not None:
            self._retention.soon()

    async def _look(self, place: Place) -> None:
        while True:
            with contextlib.suppress(JournalUnavailable, Superseded):  # the last figures stay
                self.figures = await read_figures(self.journal, place)
            await asyncio.sleep(FIGURES_S)

    async def _add_usage(self, used: DayUsage) -> None:
        await self.journal.add_usage(used)

    # -- a folder that ends with the service

    def _make_own_place(self) -> Place:
        try:
            self._own_folder = Runtime(self._temporary, TEMPORARY_PREFIX)
        except OSError as error:
            raise FolderUnusable(f"{error}: name a folder for the journal with --data-dir") from None
        return FolderPlace(self._own_folder.path / "journal")

    def _remove_own_place(self) -> None:
        if self._own_folder is not None:
            self._own_folder.remove()


def unavailable(reason: str) -> TryLater:
    """A 503 with the reason."""
    return TryLater(
        f"no batch can be stored now ({reason}): try again in {RETRY_S:.0f} s",
        status=503,
        code="journal_unavailable",
        retry_after_s=RETRY_S,
    )
