"""What it gained that a batch's items left longest first: a guess, by playing both orders with the lengths that the
answers turned out to have."""

import heapq
import itertools
from collections.abc import Sequence

MOST_PLAYED = 8192  # items: of more, every second one is played, or third, on as many fewer sequences


class OrderGain:
    """Of the items that left in that order."""

    def __init__(self) -> None:
        self._began_at: float | None = None
        self._tokens: dict[int, int] = {}  # of their answers, by index, in the order in which they left

    def began(self, index: int, now: float) -> None:
        """An item leaves, longest first, at this time."""
        if self._began_at is None:
            self._began_at = now
        self._tokens.setdefault(index, 0)

    def ended(self, index: int, tokens: int) -> None:
        """An item's answer has so many."""
        if index in self._tokens:
            self._tokens[index] = tokens

    def predicted_s(self, sequences: int, ended_at: float) -> float | None:
        """Seconds that the order of arrival would have taken beyond this one, with so many sequences at once. None of
        a batch that no order was needed for."""
        if self._began_at is None or len(self._tokens) <= sequences:
            return None
        every = -(-len(self._tokens) // MOST_PLAYED)
        played = list(itertools.islice(self._tokens, 0, None, every))
        slots = max(1, sequences // every)
        ours = _steps([self._tokens[index] for index in played], slots)
        arrival = _steps([self._tokens[index] for index in sorted(played)], slots)
        return (ended_at - self._began_at) * (arrival / ours - 1) if ours else None


def _steps(lengths: Sequence[int], slots: int) -> int:
    """Until all have ended, when each begins as one before it ends."""
    ends = [0] * slots
    for length in lengths:
        heapq.heapreplace(ends, ends[0] + length)
    return max(ends)
