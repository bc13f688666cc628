"""How long a sweep may take. Pure but for the clock."""

import math
import time
from collections.abc import Callable, Sequence

from phalanx.tune.trials import Trial

SHORTEST_ROUND_S = 1.0
SHORTEST_FILL_S = 0.01  # that is believed
REPEATS = 1  # that a new candidate leaves time for: of the best, which is repeated first


class Budget:
    """Seconds from now on."""

    def __init__(self, total_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.total_s = total_s
        self._clock = clock
        self._began = clock()

    def has_room_for(self, trials: Sequence[Trial], starts: int = 1) -> bool:
        """Whether so many starts fit in what is left, each as long as the former ones took."""
        return self._clock() - self._began + starts * expected_s(trials) <= self.total_s

    def has_room_for_new(self, trials: Sequence[Trial], more: int = 0) -> bool:
        """Whether a candidate fits that takes so many starts more than one, and the repeat after it. Of the second
        start of all nothing is known but that it is no longer than the first, which filled the compilers' caches and
        may have taken three times as long: it leaves no time for a repeat, or there would be no second in ten minutes.
        Nor does one that would not fit with its repeat into a whole budget, or a sweep of long starts would not go on.
        """
        known = sum(len(trial.took_s) for trial in trials if trial.is_usable) > 1
        starts = 1 + more + REPEATS * known
        fits = starts * expected_s(trials) <= self.total_s
        return self.has_room_for(trials, starts if fits else 1 + more)

    def never_has_room_s(self, trials: Sequence[Trial], more: int = 0) -> float | None:
        """What a new candidate takes, where that is more than a whole budget: then the sweep does not go on with it."""
        needed_s = (1 + more) * expected_s(trials)
        return needed_s if needed_s > self.total_s else None


def expected_s(trials: Sequence[Trial]) -> float:
    """How long a start is going to take: as the longest so far. The very first fills the compilers' caches, and counts
    only where there is no other; nothing is expected where there is none."""
    took = [seconds for trial in trials if trial.is_usable for seconds in trial.took_s]
    return max(took[1:] or took, default=0.0)


def choose_fills(fill_s: float, budget_s: float) -> int:
    """How often all sequences are filled in a round: twice, or once where that takes too much of the budget, but as
    often as it takes for a round to last long enough. `fill_s` is what one time took, warming up included."""
    wanted = 2 if 4 * fill_s <= budget_s / 30 else 1
    return max(wanted, math.ceil(SHORTEST_ROUND_S / max(fill_s, SHORTEST_FILL_S)))
