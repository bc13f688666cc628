"""Who keeps more of some stored batches than their runs, and hears of their ends."""

from typing import Protocol

from app.journal.records import StoredBatch
from app.journal.states import ENDED, BatchKind, BatchState


class EndWatcher(Protocol):
    """Of one kind of batches."""

    async def before_end(self, stored: StoredBatch, state: BatchState) -> None:
        """The batch is about to end so: what its items lack can be stored now. Raises what the journal does."""

    def after_end(self, stored: StoredBatch) -> None:
        """It has ended."""


class EndWatchers:
    """By the kind of batches that they watch."""

    def __init__(self) -> None:
        self._watchers: dict[BatchKind, EndWatcher] = {}

    def watch(self, kind: BatchKind, watcher: EndWatcher) -> None:
        """The watcher hears of all batches of this kind from now on."""
        self._watchers[kind] = watcher

    async def before(self, stored: StoredBatch, state: BatchState) -> None:
        """A batch is about to be in this state."""
        if state in ENDED and (watcher := self._watchers.get(stored.kind)) is not None:
            await watcher.before_end(stored, state)

    def after(self, stored: StoredBatch) -> None:
        """A batch has ended."""
        if (watcher := self._watchers.get(stored.kind)) is not None:
            watcher.after_end(stored)
