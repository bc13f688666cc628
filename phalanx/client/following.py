"""How a detached batch is waited for and read, over broken connections and restarts of the service. No input or output.

What has a `seq` is read once, for reading goes on after the last one seen. Results that an ended batch makes up for
items that never had their own have no seq of their own and come again after a break: they are told by their index.
"""

import time
from collections.abc import Iterator

import httpx

from phalanx.client import calls
from phalanx.client.calls import Call
from phalanx.client.errors import IncompleteAnswer
from phalanx.client.exchange import Answer, Patience
from phalanx.client.results import Result

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 5.0
GROWTH = 1.5


class Following(Answer):
    """The results of a detached batch, over as many answers as it takes."""

    def __init__(self, batch_id: str, after: int, patience_s: float, *, follow: bool) -> None:
        super().__init__()
        self.patience = Patience(patience_s, survives_outages=True)
        self._batch_id = batch_id
        self._after = after
        self._follow = follow
        self._seen = bytearray()  # by index: one byte of a set's sixty
        self._has_news = True
        self._is_at_end = False

    @property
    def is_over(self) -> bool:
        """Whether all that was asked for has come."""
        return self.summary is not None or (self._is_at_end and not self._follow)

    def call(self) -> Call:
        """For what is still to come. Whatever was left of a broken answer is forgotten."""
        self._unfinished.clear()
        self._is_at_end = False
        return calls.results(self._batch_id, self._after, follow=self._follow)

    def take(self, part: bytes) -> Iterator[Result]:
        """The results that are whole now, and were not there before."""
        self._has_news = True
        before = self.progress
        for result in super().take(part):
            self._after = max(self._after, result.seq or 0)
            if self._is_new(result.index):
                yield result
        self._is_at_end |= self.progress is not before

    def broken_off(self, error: httpx.HTTPError | None = None) -> IncompleteAnswer:
        """The error for an answer that ended too early: the service stops, or the connection is lost."""
        if self._has_news:
            self.patience.renew()
            self._has_news = False
        return self.broken("the answer ended before its summary" if error is None else str(error) or repr(error))

    def _is_new(self, index: int) -> bool:
        missing = index + 1 - len(self._seen)
        if missing > 0:
            self._seen.extend(bytes(max(missing, len(self._seen))))
        is_new = not self._seen[index]
        self._seen[index] = True
        return is_new


class Waiting:
    """Pauses between looks at a batch: they grow, and end with TimeoutError."""

    def __init__(self, timeout_s: float | None, patience_s: float) -> None:
        self._timeout_s = timeout_s
        self._ends = None if timeout_s is None else time.monotonic() + timeout_s
        self._patience_s = patience_s
        self._pause_s = FIRST_PAUSE_S

    def patience(self) -> Patience:
        """For one look, no longer than is left of the time."""
        left_s = self._patience_s if self._ends is None else max(0.0, self._ends - time.monotonic())
        return Patience(min(self._patience_s, left_s), survives_outages=True)

    def pause_s(self, batch_id: str) -> float:
        """How long to wait before the next look. Raises TimeoutError."""
        pause_s = self._pause_s
        self._pause_s = min(LONGEST_PAUSE_S, pause_s * GROWTH)
        if self._ends is None:
            return pause_s
        left_s = self._ends - time.monotonic()
        if left_s <= 0:
            raise TimeoutError(f"{batch_id} has not ended after {self._timeout_s:g} s")
        return min(pause_s, left_s)
