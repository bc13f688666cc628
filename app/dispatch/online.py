"""Sequences that are kept for online items: whoever waits for an answer does not queue behind a prefetched batch.

They are kept only while there are such items, and for a while after the last one: without any, batches have all there
is. Beyond what is kept, online items have their turns as all others, so that they cannot crowd batches out.
"""

import time
from collections.abc import Callable, Sequence

from app.dispatch.backlog import Backlog
from app.dispatch.credit import RankCredit
from app.dispatch.item import Item
from app.dispatch.placement import Placement

LINGER_S = 30.0  # after the last online item has come: who talks to a model reads its answers meanwhile


class OnlineLane:
    """Online items, past the others to what is kept for them."""

    def __init__(self, backlog: Backlog, placement: Placement, share: float) -> None:
        self.share = share  # of each rank's sequences
        self._backlog = backlog
        self._placement = placement
        self._keep_until = 0.0  # time.monotonic()

    def serve(self, ranks: Sequence[RankCredit], assign: Callable[[Item, RankCredit], None]) -> None:
        """Assigns as many as there is room kept for, and keeps room on these ranks or does not."""
        now = time.monotonic()
        while (item := self._backlog.online_head()) is not None:
            self._keep_until = now + LINGER_S
            chosen = self._placement.choose([rank for rank in ranks if rank.has_reserved(item)], item)
            if chosen is None:
                break
            self._backlog.pop_online()
            assign(item, chosen)
        for rank in ranks:
            rank.reserves = now < self._keep_until
