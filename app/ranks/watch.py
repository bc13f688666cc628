"""Looks at a group that serves, once a second, and tells when it stands still."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence

from app.logs import get_logger
from app.ranks.hosts.host import Host
from app.ranks.pulse import HEARTBEAT_S, PulseTaker
from app.ranks.rank import Rank
from app.ranks.stalls import Stall, find_stall

logger = get_logger("ranks")
MOST_LATE_S = 5 * HEARTBEAT_S


class StallWatch:
    """Remembers what the ranks of a group were like. `held` says how many items a rank holds.

    While a node of the group is silent, nothing can be told: what its ranks do is not heard, and the others may wait
    for them. Either it is heard again, or it is lost.
    """

    def __init__(
        self,
        ranks: Sequence[Rank],
        host_of: Callable[[int], Host],
        held: Callable[[int], int],
        stall_timeout_s: float,
    ) -> None:
        self._ranks = ranks
        self._host_of = host_of
        self._held = held
        self._stall_timeout_s = stall_timeout_s
        self._takers = self._new_takers()
        self._looked_at = time.monotonic()
        self._has_failed = False

    async def stalls(self, is_serving: Callable[[], bool]) -> AsyncIterator[tuple[Rank, str]]:
        """Ranks that stand still, and how that shows. Looks for as long as somebody waits for it."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            stall = self.look() if is_serving() else None
            if stall is not None:
                yield next(rank for rank in self._ranks if rank.number == stall.rank), stall.reason

    def look(self) -> Stall | None:
        """To be called once a second while the group serves. A look that fails says nothing; the next one may."""
        before, self._looked_at = self._looked_at, time.monotonic()
        stood_still = self._looked_at - before > MOST_LATE_S  # this process: what the ranks said is unread
        if stood_still or not all(self._host_of(rank.number).is_heard for rank in self._ranks):
            self._begin_anew()
            return None
        try:
            stall = self._find()
        except Exception:
            # The edge. Without a watch, the clients of a group that stands still would wait for ever.
            if not self._has_failed:
                logger.exception("watch_failed", ranks=[rank.number for rank in self._ranks])
            self._has_failed = True
            return None
        self._has_failed = False
        return stall

    def _new_takers(self) -> list[PulseTaker]:
        return [PulseTaker(rank, self._host_of(rank.number).pulse_reader()) for rank in self._ranks]

    def _begin_anew(self) -> None:
        self._takers = self._new_takers()
        for rank in self._ranks:
            rank.heard()

    def _find(self) -> Stall | None:
        held = [self._held(rank.number) - _awaiting(rank) for rank in self._ranks]
        pulses = [taker.take(items, group_works=any(held)) for taker, items in zip(self._takers, held, strict=True)]
        return find_stall(pulses, self._stall_timeout_s, HEARTBEAT_S)


def _awaiting(rank: Rank) -> int:
    """Items on the rank that are not its work now: what it has made of them has to be read first."""
    return rank.status.awaiting if rank.status is not None else 0
