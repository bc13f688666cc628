"""When a lost group is started again, and when no more: decided here, without doing anything.

Failures are counted in a window; each makes the next start wait longer, and too many open the breaker. Some are not
counted: an operator's own restarts; a lost node, which is waited for; a clash of ports, of which there may be a few in
a row; a trial's crashes, which find culprits one by one and have a budget of their own, as have crashes whose suspects
nobody wants any more; and the crash that brought a cohort to trial, once a culprit has been found for it, or may have
been among items that were taken back. Starts that fail may take so long that a window never holds enough of them: so
many in a row are too many as well.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from app.ranks.events import Aftermath, Loss, LossKind
from app.settings.declaration import Settings, flag

MOST_PORT_CLASHES = 10  # in a row
TRIAL_WINDOW_S = 3600.0
PORT_CLASH_DELAY_S = 0.1
MOST_DOUBLINGS = 30  # a float holds a thousand


@dataclass(frozen=True)
class Limits:
    """What the settings say of restarts."""

    failures: int  # in the window, or starts in a row; one more opens the breaker
    window_s: float
    backoff_s: float  # after the first failure; twice as long after each further one
    longest_backoff_s: float
    trial_crashes: int  # in an hour

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """From the settings."""
        return cls(
            settings.breaker_failures,
            settings.breaker_window_s,
            settings.restart_backoff_s,
            settings.max_restart_backoff_s,
            settings.trial_restarts,
        )


@dataclass(frozen=True)
class Restart:
    """Start again after so many seconds."""

    delay_s: float


@dataclass(frozen=True)
class Break:
    """Do not start again until somebody says so."""

    reason: str


class RestartPolicy:
    """The failures of one group, and what follows from the next one. `chance` gives numbers from 0 to 1."""

    def __init__(self, limits: Limits, chance: Callable[[], float] = random.random) -> None:
        self._limits = limits
        self._chance = chance
        self._failures: deque[float] = deque()  # when
        self._trial_crashes: deque[float] = deque()
        self._port_clashes = 0
        self._failed_starts = 0  # in a row
        self._explained = 0

    def decide(self, loss: Loss, aftermath: Aftermath, now: float) -> Restart | Break:
        """What to do about this loss, at `now` seconds."""
        self._forgive(aftermath.explained)
        if loss.kind in (LossKind.ENDED, LossKind.NODE_LOST):  # that a node is back is what the group waits for
            return Restart(0.0)
        if loss.kind is LossKind.PORT_CLASH and self._port_clashes < MOST_PORT_CLASHES:
            self._port_clashes += 1
            return Restart(PORT_CLASH_DELAY_S)
        if aftermath.was_trial and self._may_try(now):
            return Restart(0.0)
        return self._count(loss, now)

    def started(self) -> None:
        """The group is ready."""
        self._port_clashes = self._failed_starts = 0

    def reset(self) -> None:
        """An operator has seen to it: nothing is held against the group any more."""
        self._failures.clear()
        self._trial_crashes.clear()
        self._port_clashes = self._failed_starts = 0

    def _forgive(self, explained: int) -> None:
        """Failures that were no fault of the group."""
        for _ in range(explained - self._explained):
            if self._failures:
                self._failures.pop()
        self._explained = explained

    def _may_try(self, now: float) -> bool:
        _forget(self._trial_crashes, now - TRIAL_WINDOW_S)
        self._trial_crashes.append(now)
        return len(self._trial_crashes) <= self._limits.trial_crashes

    def _count(self, loss: Loss, now: float) -> Restart | Break:
        limits = self._limits
        _forget(self._failures, now - limits.window_s)
        self._failures.append(now)
        if loss.kind in (LossKind.CANNOT_START, LossKind.PORT_CLASH):
            self._failed_starts += 1
        count, allowed = len(self._failures), f"({flag('breaker_failures')} {limits.failures}), at last: {loss.reason}"
        if count > limits.failures:
            return Break(f"it failed {count} times within {limits.window_s:g} s {allowed}")
        if self._failed_starts > limits.failures:
            return Break(f"it could not be started {self._failed_starts} times in a row {allowed}")
        longest = min(limits.longest_backoff_s, limits.backoff_s * 2 ** min(count - 1, MOST_DOUBLINGS))
        return Restart(longest * (0.5 + 0.5 * self._chance()))  # jitter: groups that failed together start apart


def _forget(times: deque[float], before: float) -> None:
    while times and times[0] < before:
        times.popleft()
