"""A clock of its own, and what happens by it: an hour of many ranks takes as long as its events do."""

import heapq
import itertools
from collections.abc import Callable


class Timeline:
    """Calling it tells the time, in seconds. What is due at one time happens in the order in which it was planned."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()

    def __call__(self) -> float:
        return self.now_s

    def after(self, seconds: float, act: Callable[[], object]) -> None:
        """Does it so much later."""
        heapq.heappush(self._due, (self.now_s + seconds, next(self._numbers), act))

    def run(self, until_s: float = float("inf")) -> None:
        """Until then, or until nothing is due any more."""
        while self._due and self._due[0][0] <= until_s:
            self.now_s, _, act = heapq.heappop(self._due)
            act()
        if until_s < float("inf"):
            self.now_s = until_s
