"""Waves: the ranks of a lock-step group are refilled together.

Every step of such a group takes as long as the rank with the most to do, in the mode of the one that has least of a
CUDA graph: one rank that takes in a prompt slows all. So where answers end a few at a time, the sequences that they
leave are held until a part of the group's is free, and then all ranks are filled in one pass. A rank holds nothing in
advance meanwhile, for it would begin that by itself. Answers that end in larger bursts come in waves of their own.
"""

from collections.abc import Sequence

from app.dispatch.credit import RankCredit
from app.dispatch.item import Item
from app.dispatch.refill import Clock

PART = 1 / 16  # of the group's sequences, that are free before it is refilled (docs/scale.md)
MOST_ON_ONE = 2 * PART  # of one rank's, that it has free at most before all are refilled: it would run dry
LONGEST_HOLD_S = 0.5  # where few end


def makes_waves(ranks: Sequence[RankCredit]) -> bool:
    """Whether steps of this group have modes to lose: it has several ranks, which are in lock-step then, and graphs."""
    return len(ranks) > 1 and all(rank.has_graphs for rank in ranks)


class Wave:
    """Says when the ranks of one group may begin items of batches."""

    def __init__(self, ranks: Sequence[RankCredit], clock: Clock) -> None:
        self._ranks = ranks
        self._sequences = sum(rank.max_num_seqs for rank in ranks)
        self._clock = clock
        self._holds_since: float | None = None
        self.is_active = False  # whether the ranks are refilled together, and hold nothing in advance
        self.is_open = True  # whether they are refilled now

    def look(self, left: int | None, head: Item) -> None:
        """Decides for one pass of the dispatcher, in which `head` leaves first. So many more items wait than could
        begin at once; None: more come.

        What is left when that is less than the group runs at once is not held, for it is the end; nor is an item so
        large that a rank may have to be kept for it.
        """
        is_end = left is not None and left <= self._sequences
        self.is_active = not is_end and all(self._ends_few(rank) for rank in self._ranks)
        self.is_open = not self.is_active or self._is_due() or not all(rank.is_small(head) for rank in self._ranks)
        if self.is_open:
            self._holds_since = None

    def _ends_few(self, rank: RankCredit) -> bool:
        """A rank that keeps room for online items has groups of its own (refill.py)."""
        is_ruled_elsewhere = rank.reserves or rank.is_told_prefetch
        return not is_ruled_elsewhere and rank.burst < PART * rank.max_num_seqs

    def _is_due(self) -> bool:
        free = sum(rank.free for rank in self._ranks)
        if not free:
            return False
        if self._holds_since is None:
            self._holds_since = self._clock()
        return (
            free >= PART * self._sequences
            or any(rank.free >= MOST_ON_ONE * rank.max_num_seqs for rank in self._ranks)
            or self._clock() - self._holds_since >= LONGEST_HOLD_S
        )
