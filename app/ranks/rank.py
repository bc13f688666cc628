"""One rank as the gateway knows it: its state, what it last said, and its place in a group."""

import time
from enum import StrEnum
from pathlib import Path

from engines.contract.protocol import RankFacts, Stage, Status

RATE_WEIGHT = 0.3  # of the newest heartbeat in the running mean of tokens per second
LOG_TAIL_BYTES = 16 * 1024


class RankState(StrEnum):
    """The life of a rank."""

    PENDING = "pending"  # not started yet: the model is being looked at
    STARTING = "starting"  # its process runs; `stage` says how far it is
    READY = "ready"  # a warm-up generation has succeeded; it takes items
    DRAINING = "draining"  # it finishes what it holds and takes nothing new
    STOPPED = "stopped"  # it ended because it was asked to
    FAILED = "failed"  # it could not start, died or stalled; `last_error` says why, and what is left of it is ended
    BACKOFF = "backoff"  # it will be started again in a moment
    BROKEN = "broken"  # it failed too often: it is started again when an operator says so


class Rank:
    """State and figures of one rank. Written by the fleet alone."""

    def __init__(self, number: int, group: int) -> None:
        self.number = number
        self.group = group
        self.state = RankState.PENDING
        self.stage: Stage | None = None
        self.stage_since = time.monotonic()
        self.incarnation = 0
        self.pid: int | None = None
        self.gpus: tuple[str, ...] = ()
        self.cores: str | None = None
        self.facts: RankFacts | None = None
        self.status: Status | None = None
        self.tokens_per_s = 0.0
        self.last_error: str | None = None
        self.log_file: Path | None = None
        self.results = 0  # messages with results, in this life
        self.heard_at = time.monotonic()  # when it last said anything
        self._status_at = 0.0
        self._log_start = 0  # where this life's part of the log begins

    @property
    def ids(self) -> dict[str, int]:
        """For the log: which life of which rank."""
        return {"rank": self.number, "group": self.group, "incarnation": self.incarnation}

    @property
    def is_ready(self) -> bool:
        """Whether it takes items."""
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

    def begin(self, incarnation: int, log_file: Path) -> None:
        """A new life."""
        self.state = RankState.STARTING
        self.incarnation = incarnation
        self.log_file = log_file
        self._log_start = log_file.stat().st_size if log_file.exists() else 0
        self.pid = self.facts = self.status = None
        self.tokens_per_s = 0.0
        self.results = 0
        self.heard_at = time.monotonic()
        self.reach(Stage.SPAWNED)

    def reach(self, stage: Stage) -> None:
        """The next stage of starting."""
        self.stage = stage
        self.stage_since = time.monotonic()

    def fail(self, reason: str) -> None:
        """The rank is lost."""
        self.state = RankState.FAILED
        self.last_error = reason
        self.tokens_per_s = 0.0

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
        if self.log_file is None:
            return ""
        try:
            with self.log_file.open("rb") as log:
                log.seek(0, 2)
                end = log.tell()
                start = self._log_start if self._log_start <= end else 0  # a log that grew too long began anew
                log.seek(max(start, end - size_bytes))
                return log.read(size_bytes).decode("utf-8", "replace")
        except OSError:
            return ""
