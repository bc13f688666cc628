"""How fast work gets done, measured: what Retry-After and predictions are computed from."""

import math
import time
from collections.abc import Callable

TIME_CONSTANT_S = 20.0
UNKNOWN_RETRY_S = 5.0  # before anything was measured


class RateMeter:
    """Tokens per second while there is work, as an exponentially decaying mean. Idle time does not count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._weighted_tokens = 0.0
        self._weighted_s = 0.0
        self._last: float | None = None
        self._pieces = 0  # of work that has come and not ended

    def busy(self) -> None:
        """A piece of work has come. Where there was none, time counts from now on: what has passed since the last
        tokens were done was idle, or went into what was given up."""
        if not self._pieces:
            self._last = self._clock()
        self._pieces += 1

    def observe(self, tokens: int) -> None:
        """So many tokens were done. None are: what ended was given up, and the time that it took is not over."""
        if self._last is None or tokens == 0:
            return
        now = self._clock()
        elapsed = now - self._last
        decay = math.exp(-elapsed / TIME_CONSTANT_S)
        self._weighted_tokens = self._weighted_tokens * decay + tokens
        self._weighted_s = self._weighted_s * decay + elapsed
        self._last = now

    def done(self) -> None:
        """A piece of work has ended. Its last tokens may be counted still."""
        self._pieces -= 1

    @property
    def tokens_per_s(self) -> float | None:
        """None before anything was measured."""
        return self._weighted_tokens / self._weighted_s if self._weighted_s > 0 and self._weighted_tokens else None

    def seconds_for(self, tokens: float) -> float:
        """How long so many tokens will take."""
        rate = self.tokens_per_s
        return UNKNOWN_RETRY_S if rate is None else tokens / rate
