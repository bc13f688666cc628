"""Two lanes to the ranks: online items, for whose answers somebody waits, and batches.

Sequences are kept for online items, so that they do not queue behind a prefetched batch; and while they are kept,
batches begin theirs in groups (refill.py). All that holds while there are online items, and for a while after the last
one: without any, batches have all there is. Beyond what is kept, online items have their turns as all others, so that
they cannot crowd batches out.
"""

import math
import time
from collections.abc import Callable, Sequence

from app.dispatch.backlog import Backlog
from app.dispatch.credit import RankCredit
from app.dispatch.item import Item
from app.dispatch.placement import Placement
from app.dispatch.refill import PERIOD_S, Clock
from app.dispatch.reservations import Reservations
from app.dispatch.waves import Wave, makes_waves

LINGER_S = 30.0  # after the last online item has come: who talks to a model reads its answers meanwhile
Assign = Callable[[Item, RankCredit], None]
Later = Callable[[float, Callable[[], None]], object]  # does it after so many seconds
Soon = Callable[[Callable[[], None]], object]  # does it once all that has come at the same time is here


class Lanes:
    """What of the backlog goes to which rank now."""

    def __init__(
        self,
        backlog: Backlog,
        placement: Placement,
        reservations: Reservations,
        online_share: float,
        later: Later,
        clock: Clock = time.monotonic,
        waves: bool = False,
    ) -> None:
        self.online_share = online_share  # of each rank's sequences
        self._waves = waves
        self._backlog = backlog
        self._placement = placement
        self._reservations = reservations
        self._later = later
        self._clock = clock
        self._keep_until = -math.inf  # by the clock
        self._is_return_due = False

    def join(self, ranks: Sequence[RankCredit]) -> None:
        """These are a group from now on, until it is lost."""
        if self._waves and makes_waves(ranks):
            wave = Wave(ranks, self._clock)
            for rank in ranks:
                rank.wave = wave

    def serve(self, ranks: Sequence[RankCredit], assign: Assign, until: float, pump: Callable[[], None]) -> None:
        """Assigns what there is room for, until the clock is so late. `pump` is called once batches may begin
        what they may not begin now."""
        open_to_all = self._reservations.serve(ranks, assign)
        self._serve_online(open_to_all or ranks, assign)
        self._keep_room(ranks)
        self._serve_batches(open_to_all, assign, until, pump)

    def _serve_online(self, ranks: Sequence[RankCredit], assign: Assign) -> None:
        """Assigns as many as there is room kept for."""
        while (item := self._backlog.online_head()) is not None:
            self._keep_until = self._clock() + LINGER_S
            chosen = self._placement.choose([rank for rank in ranks if rank.has_reserved(item)], item)
            if chosen is None:
                break
            self._backlog.pop_online()
            assign(item, chosen)

    def _keep_room(self, ranks: Sequence[RankCredit]) -> None:
        """Keeps room for online items on these ranks, or does not, and asks the groups in lock-step for their waves.

        And when no more is to come, a rank holds little in advance: half of its part of what is left, for it may turn
        out that it cannot run that while others have nothing.
        """
        left = self._backlog.items - sum(rank.free for rank in ranks)
        keeps_room = self._clock() < self._keep_until
        is_end = left > 0 and len(ranks) > 1 and not self._backlog.open_ended
        most_in_advance = left // (2 * len(ranks)) if is_end else None
        for rank in ranks:
            rank.reserves = keeps_room
        waves = {rank.wave for rank in ranks if rank.wave is not None}
        if waves and (flow := self._backlog.current()) is not None:
            for wave in waves:
                wave.look(None if self._backlog.open_ended else left, flow.waiting.first())
        for rank in ranks:
            is_in_waves = rank.wave is not None and rank.wave.is_active
            rank.bound_prefetch(0 if is_in_waves else most_in_advance)

    def _serve_batches(
        self, ranks: Sequence[RankCredit], assign: Assign, until: float, pump: Callable[[], None]
    ) -> None:
        """Assigns as many as there is room for: of batches, and of online items beyond what is kept for them."""
        slots = sum(rank.max_num_seqs for rank in ranks)
        begin = [rank for rank in ranks if rank.may_begin]
        must_wait = len(begin) < len(ranks)
        begin = [rank for rank in begin if not rank.is_full]  # most are: nobody asks them about each item
        before = None
        while (flow := self._backlog.current()) is not None and self._clock() < until:
            if flow is not before and not flow.is_open_ended:
                flow.waiting.look_for_end(slots, flow.has_time_for)
            before, item = flow, flow.waiting.first()
            able = ranks if flow.is_online or not item.sequences else begin
            chosen = self._placement.pick(able, flow.waiting)
            if chosen is not None:
                assign(self._backlog.pop(chosen.rank), chosen)
                may_begin = chosen.may_begin
                must_wait = must_wait or not may_begin
                if (chosen.is_full or not may_begin) and chosen in begin:
                    begin.remove(chosen)
            elif able and (kept := self._reservations.choose(ranks, item)) is not None:
                self._reservations.keep(kept, self._backlog.pop())
                ranks = [rank for rank in ranks if rank is not kept]
                begin = [rank for rank in begin if rank is not kept]
            else:
                break
        if flow is not None and not flow.is_online and must_wait and not self._is_return_due:
            self._is_return_due = True
            self._later(PERIOD_S, lambda: self._return(pump))

    def _return(self, pump: Callable[[], None]) -> None:
        self._is_return_due = False
        pump()
