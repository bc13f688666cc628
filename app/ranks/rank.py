"""One rank as the gateway knows it: its state, what it last said, and its place in a group.

Its state changes by the transitions below, and its group alone makes them.
"""

import time
from enum import StrEnum

from app.ranks.hosts.host import RankLogView
from engines.contract.protocol import RankFacts, Stage, Status
from engines.contract.spec import Share

RATE_WEIGHT = 0.3  # of the newest heartbeat in the running mean of tokens per second
LOG_TAIL_BYTES = 16 * 1024


class RankState(StrEnum):
    """The life of a rank."""

    PENDING = "pending"  # not started yet: the model is being looked at, or its group's nodes are not all there
    STARTING = "starting"  # its process runs; `stage` says how far it is
    READY = "ready"  # the warm-up has succeeded; it takes items
    DRAINING = "draining"  # it finishes what it holds and takes nothing new
    STOPPED = "stopped"  # it ended because it was asked to
    FAILED = "failed"  # it could not start, died or stalled; `last_error` says why, and what is left of it is ended
    BACKOFF = "backoff"  # it will be started again in a moment
    BROKEN = "broken"  # it failed too often: it is started again when an operator says so


class Rank:
    """State and figures of one rank."""

    def __init__(self, number: int, group: int) -> None:
        self.number = number
        self.group = group
        self._state = RankState.PENDING
        self.stage: Stage | None = None
        self.stage_since = time.monotonic()
        self.incarnation = 0
        self.pid: int | None = None
        self.share = Share()
        self.facts: RankFacts | None = None
        self.status: Status | None = None
        self.tokens_per_s = 0.0
        self.last_error: str | None = None
        self.log: RankLogView | None = None
        self.results = 0  # messages with results, in this life
        self.heard_at = time.monotonic()  # when it last said anything
        self._status_at = 0.0

    @property
    def ids(self) -> dict[str, int]:
        """For the log: which life of which rank."""
        return {"rank": self.number, "group": self.group, "incarnation": self.incarnation}

    @property
    def state(self) -> RankState:
        """Where it is in its life."""
        return self._state

    @property
    def is_ready(self) -> bool:
        """Whether its engine has generated, and nobody wants it to stop taking items."""
        return self.state is RankState.READY

    @property
    def is_serving(self) -> bool:
        """Whether its engine runs items."""
        return self.state in (RankState.READY, RankState.DRAINING)

    @property
    def is_alive(self) -> bool:
        """Whether its process is there, or about to be."""
        return self.state in (RankState.STARTING, RankState.READY, RankState.DRAINING)

    @property
    def progress(self) -> float | None:
        """The share of the stages of starting that it has behind it; None when it is not starting."""
        if self.state is not RankState.STARTING or self.stage is None:
            return None
        stages = list(Stage)
        return stages.index(self.stage) / (len(stages) - 1)

    @property
    def error_line(self) -> str | None:
        """The last error without what follows its first line, which is the log's and not for everybody."""
        return None if self.last_error is None else self.last_error.partition("\n")[0]

    # -- transitions

    def await_nodes(self) -> None:
        """It is started as soon as all nodes of its group are there."""
        self._state = RankState.PENDING
        self.stage = None

    def begin(self, log: RankLogView, share: Share) -> None:
        """A new life begins: it is started, with this part of its host."""
        self.share = share
        self._state = RankState.STARTING
        self.incarnation += 1
        self.log = log
        self.pid = self.facts = self.status = None
        self.tokens_per_s = 0.0
        self.results = 0
        self.heard_at = time.monotonic()
        self.reach(Stage.SPAWNED)

    def become_ready(self, facts: RankFacts) -> None:
        """Its engine has generated."""
        self._state = RankState.READY
        self.facts = facts

    def drain(self) -> None:
        """It takes nothing new, and finishes what it holds."""
        self._state = RankState.DRAINING

    def stop(self) -> None:
        """It ended because it was asked to."""
        self._state = RankState.STOPPED

    def fail(self, reason: str) -> None:
        """It is lost."""
        self._state = RankState.FAILED
        self.last_error = reason
        self.tokens_per_s = 0.0

    def wait(self) -> None:
        """It will be started again by itself."""
        self._state = RankState.BACKOFF

    def give_up(self, reason: str) -> None:
        """It will not be started again until an operator says so."""
        self._state = RankState.BROKEN
        self.last_error = reason

    # -- what it says

    def reach(self, stage: Stage) -> None:
        """The next stage of starting."""
        self.stage = stage
        self.stage_since = time.monotonic()

    def heard(self) -> None:
        """It has said something."""
        self.heard_at = time.monotonic()

    def beat(self, status: Status) -> None:
        """A heartbeat: figures, and tokens per second since the one before."""
        now = time.monotonic()
        if self.status is not None and now > self._status_at:
            rate = (status.completion_tokens - self.status.completion_tokens) / (now - self._status_at)
            self.tokens_per_s += RATE_WEIGHT * (rate - self.tokens_per_s)
        self.status = status
        self._status_at = now

    def log_tail(self, lines: int) -> list[str]:
        """The last lines that the rank's processes printed in this life."""
        return self.log_end(LOG_TAIL_BYTES).splitlines()[-lines:] if lines > 0 else []

    def log_end(self, size_bytes: int) -> str:
        """As much as that of what they printed last in this life."""
        return "" if self.log is None else self.log.end(size_bytes)
