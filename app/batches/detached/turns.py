"""Which of the detached batches runs next: a limited number of each tenant's batches of one priority at once."""

import heapq
from collections import defaultdict
from typing import TypeAlias

from app.batches.detached.running import OpenBatch

MAX_RUNNING = 32  # of one tenant and priority
Lane: TypeAlias = tuple[str, int]  # a tenant and a priority


class BatchTurns:
    """In each lane batches wait by their age."""

    def __init__(self) -> None:
        self._waiting: defaultdict[Lane, list[int]] = defaultdict(list)  # heaps of ordinals
        self._running: defaultdict[Lane, int] = defaultdict(int)

    def wait(self, batch: OpenBatch) -> None:
        """It waits for its turn."""
        heapq.heappush(self._waiting[lane_of(batch)], batch.stored.ordinal)

    def begin_next(self, lane: Lane) -> int | None:
        """The ordinal of the batch whose turn has come: it counts as running, until `end`. None: none's has."""
        if not self._waiting.get(lane) or self._running.get(lane, 0) >= MAX_RUNNING:
            return None  # and nothing is kept of a lane in which there is none
        self._running[lane] += 1
        return heapq.heappop(self._waiting[lane])

    def end(self, lane: Lane) -> None:
        """One of these does not run any more."""
        self._running[lane] -= 1
        if not self._running[lane] and not self._waiting[lane]:
            del self._running[lane]
            self._waiting.pop(lane, None)


def lane_of(batch: OpenBatch) -> Lane:
    """Where it waits and runs."""
    return batch.stored.tenant, batch.stored.priority
