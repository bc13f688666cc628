"""How fast sequences advance on the ranks: learned from items that finish, whichever batch they belong to.

All sequences that run get a token in each step, so one clock of tokens tells the age of every one of them. A step takes
longer the more of them there are: seconds per token = base + slope x sequences, fitted to what was lately seen.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable

LEVEL_MEMORY = 0.99  # of the weight of what was learned of the level, with every further item
SLOPE_MEMORY = 0.9999  # the same of the slope: it shows only while numbers change, and stays what it is
PRIOR_WEIGHT = 0.002  # of the belief about the slope, beside what was seen of it
PRIOR_SHARE = 0.5  # of a step's time that goes with the number of sequences, before anything is known about it
TICK_S = 0.0005  # in which the clock of tokens stands still: thousands of items begin and end in a second
GUESS_S = 0.03  # of a token, before any was measured


class Means:
    """Running means of what was seen: sequences n, seconds per token s, and their products."""

    def __init__(self, memory: float) -> None:
        self._memory = memory
        self._weight = self._n = self._s = self._nn = self._ns = 0.0

    def add(self, n: float, s: float) -> None:
        """One item's."""
        memory = self._memory
        self._weight = self._weight * memory + 1
        self._n = self._n * memory + n
        self._s = self._s * memory + s
        self._nn = self._nn * memory + n * n
        self._ns = self._ns * memory + n * s

    @property
    def means(self) -> tuple[float, float, float, float] | None:
        """Of n, s, n n and n s; None before the first."""
        weight = self._weight
        return (self._n / weight, self._s / weight, self._nn / weight, self._ns / weight) if weight else None


class Stay:
    """An item on the ranks: since when it runs there, if it does not wait there still."""

    __slots__ = ("began_at", "began_tokens", "load", "sequences")

    def __init__(self, sequences: int) -> None:
        self.sequences = sequences
        self.began_at: float | None = None
        self.began_tokens = 0.0  # on the clock of tokens
        self.load = 0.0  # the running integral of sequences over tokens, then


class Pace:
    """The clock of tokens, and what a token takes. `slots` are the sequences that all ranks run at once."""

    def __init__(self, slots: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.slots = slots
        self.running = 0  # sequences
        self._clock = clock
        self._now = clock()
        self._tokens = 0.0
        self._load = 0.0
        self._queue: deque[Stay] = deque()  # sent, and waiting on their rank
        self._waiting: set[Stay] = set()
        self._level = Means(LEVEL_MEMORY)
        self._slope = Means(SLOPE_MEMORY)

    def began(self, sequences: int) -> Stay:
        """An item was sent to a rank. It waits there while as many as possible run."""
        self._advance()
        stay = Stay(sequences)
        self._queue.append(stay)
        self._waiting.add(stay)
        self._let_in()
        return stay

    def ended(self, stay: Stay, tokens: float | None) -> None:
        """It has made so many tokens in each of its sequences; None: it was lost or given up."""
        self._advance()
        if stay.began_at is None:
            self._waiting.discard(stay)
            return
        self.running -= stay.sequences
        duration_s = self._now - stay.began_at
        if tokens and duration_s > 0:
            sequences = (self._load - stay.load) / (self._tokens - stay.began_tokens)
            self._level.add(sequences, duration_s / tokens)
            self._slope.add(sequences, duration_s / tokens)
        self._let_in()

    def age(self, stay: Stay) -> float | None:
        """Tokens of each of its sequences, about; None while it waits."""
        return self.ages((stay,))[0]

    def ages(self, stays: Iterable[Stay]) -> list[float | None]:
        """The same of many, at one time."""
        self._advance()
        return [None if stay.began_at is None else self._tokens - stay.began_tokens for stay in stays]

    def seconds_per_token(self, sequences: float) -> float | None:
        """Of each, while so many run. None before anything was seen."""
        level, long = self._level.means, self._slope.means
        if level is None or long is None:
            return None
        n, s, nn, ns = long
        spread, common = nn / n / n - 1, ns / n / s - 1  # relative to the means, so that the prior's weight has no unit
        slope = (max(0.0, common) + PRIOR_WEIGHT * PRIOR_SHARE) / (max(0.0, spread) + PRIOR_WEIGHT)
        slope = min(1.0, slope) * s / n
        base = max(0.0, s - slope * n)
        lately_n, lately_s, *_ = level
        return lately_s * (base + slope * sequences) / (base + slope * lately_n)

    def _let_in(self) -> None:
        while self._queue:
            first = self._queue[0]
            if first in self._waiting:
                if self.running and self.running + first.sequences > self.slots:
                    return
                self._waiting.discard(first)
                first.began_at, first.began_tokens, first.load = self._now, self._tokens, self._load
                self.running += first.sequences
            self._queue.popleft()

    def _advance(self) -> None:
        now = self._clock()
        elapsed_s = now - self._now
        if elapsed_s < TICK_S:
            return
        self._now = now
        if self.running:
            tokens = elapsed_s / (self.seconds_per_token(self.running) or GUESS_S)
            self._tokens += tokens
            self._load += tokens * self.running
