"""Two lanes to the ranks: online items, for whose answers somebody waits, and batches.

Sequences are kept for online items, so that they do not queue behind a prefetched batch; and while they are kept,
batches begin theirs in groups (refill.py). All that holds while there are online items, and for a while after the last
one: without any, batches have all there is. Beyond what is kept, online items have their turns as all others, so that
they cannot crowd batches out.
"""

import time
from collections.abc import Callable, Sequence

from app.dispatch.backlog import Backlog
from app.dispatch.credit import RankCredit
from app.dispatch.item import Item
from app.dispatch.placement import Placement
from app.dispatch.refill import PERIOD_S

LINGER_S = 30.0  # after the last online item has come: who talks to a model reads its answers meanwhile
Assign = Callable[[Item, RankCredit], None]
Later = Callable[[float, Callable[[], None]], object]  # does it after so many seconds


class Lanes:
    """What of the backlog goes to which rank now."""

    def __init__(self, backlog: Backlog, placement: Placement, online_share: float, later: Later) -> None:
        self.online_share = online_share  # of each rank's sequences
        self._backlog = backlog
        self._placement = placement
        self._later = later
        self._keep_until = 0.0  # time.monotonic()
        self._is_return_due = False

    def serve_online(self, ranks: Sequence[RankCredit], assign: Assign) -> None:
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

    def serve_batches(
        self, ranks: Sequence[RankCredit], assign: Assign, until: float, pump: Callable[[], None]
    ) -> None:
        """Assigns as many as there is room for, until `time.monotonic()` is so late: of batches, and of online items
        beyond what is kept for them. `pump` is called once batches may begin what they may not begin now."""
        begin = [rank for rank in ranks if rank.may_begin]
        while (item := self._backlog.head()) is not None and time.monotonic() < until:
            chosen = self._placement.choose(ranks if item.flow.is_online else begin, item)
            if chosen is None:
                break
            self._backlog.pop()
            assign(item, chosen)
            if chosen in begin and not chosen.may_begin:
                begin.remove(chosen)
        if item is not None and not item.flow.is_online and len(begin) < len(ranks) and not self._is_return_due:
            self._is_return_due = True
            self._later(PERIOD_S, lambda: self._return(pump))

    def _return(self, pump: Callable[[], None]) -> None:
        self._is_return_due = False
        pump()
