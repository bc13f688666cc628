"""Requests a second: a token bucket, so that a short burst is no offence."""

import math
import time
from collections.abc import Callable


class TokenBucket:
    """Holds what may come within a second, and one request at least."""

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_s = per_s
        self.capacity = max(1, math.ceil(per_s))
        self._clock = clock
        self._level = float(self.capacity)
        self._at = clock()

    def take(self) -> bool:
        """Whether one more request may come now. It counts only if it may."""
        self._refill()
        if self._level < 1:
            return False
        self._level -= 1
        return True

    @property
    def remaining(self) -> int:
        """Requests that may come at once."""
        self._refill()
        return int(self._level)

    @property
    def next_s(self) -> float:
        """Until one more request may come; 0 when it may now."""
        self._refill()
        return max(0.0, (1 - self._level) / self.per_s)

    @property
    def full_s(self) -> float:
        """Until as many may come as ever."""
        self._refill()
        return (self.capacity - self._level) / self.per_s

    def _refill(self) -> None:
        now = self._clock()
        self._level = min(self.capacity, self._level + (now - self._at) * self.per_s)
        self._at = now
