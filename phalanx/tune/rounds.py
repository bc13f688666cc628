"""Gives a service the work and takes the time: of rounds within one long batch, or of batches as large as the user's.

In a long batch a round counts only while all sequences are busy. Rounds that were batches of their own would have their
beginnings and ends counted, which take the longer the more sequences there are, and hide most of what those gain.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from phalanx.client import Client, Result, ResultStream
from phalanx.tune.search import ROUNDS
from phalanx.tune.trials import Round, Trial
from phalanx.tune.workload import Workload

WARM_UP = 0  # the number of the batch that does not count


class CandidateFailed(Exception):
    """It cannot be used. The message says why."""


@dataclass(frozen=True)
class Work:
    """What every candidate gets. `timeout_s` is of a batch; None: as the service has it."""

    workload: Workload
    client: Client
    stage: Callable[[str], None]
    timeout_s: float | None

    def warm_up(self, items: int) -> float:
        """How many seconds it took."""
        self.stage("warming up")
        began = time.monotonic()
        self._batch(WARM_UP, items, lambda _: None)
        return time.monotonic() - began

    def whole(self, trial: Trial, before: int, items: int) -> None:
        """Batches of so many items, each measured as a whole, after so many of them in former starts."""
        for number in range(1, ROUNDS + 1):
            self.stage(f"round {number} of {ROUNDS}, {items} items")
            tokens, began = _Tokens(), time.monotonic()
            tail_s = self._batch(before + number, items, tokens.add)
            trial.rounds.append(Round(seconds=time.monotonic() - began, output_tokens=tokens.count))
            trial.tails_s.append(tail_s)

    def steady(self, trial: Trial, before: int, fill: int, items: int) -> None:
        """Rounds of so many items while `fill` sequences are busy: as many items come before the first and after the
        last. `before` is how many such batches there were in former starts."""
        total = 2 * fill + ROUNDS * items
        self.stage(f"{ROUNDS} rounds of {items} items")
        windows = _Windows(fill, items)
        trial.tails_s.append(self._batch(before + 1, total, windows.add))
        trial.rounds += windows.rounds

    def _batch(self, number: int, count: int, took: Callable[[Result], None]) -> float:
        """Its tail in seconds. Items that are refused for what they are would be refused by every candidate, and count
        for none."""
        failed, why = 0, ""
        options: dict[str, Any] = {} if self.timeout_s is None else {"timeout_s": self.timeout_s}  # Any: as typed there
        items = self.workload.items(number, count)
        with self.client.generate(items, sampling_params=self.workload.sampling_params, **options) as results:
            for result in results:
                took(result)
                if not result.ok:
                    why = result.error.message if result.error else result.status
                    failed += result.error is None or result.error.retryable
        return _tail_s(results, failed, count, why)


def _tail_s(results: ResultStream, failed: int, count: int, why: str) -> float:
    summary = results.summary
    if failed or summary is None or summary.stats is None or not summary.request_counts.ok:
        raise CandidateFailed(f"{failed or count} of {count} items failed, the last because: {why}")
    return float(summary.stats["tail_s"])


class _Tokens:
    """Of the answers so far."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, result: Result) -> None:
        self.count += result.usage.completion_tokens


class _Windows:
    """Rounds by the count of results: `items` each, after the first `lead`."""

    def __init__(self, lead: int, items: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rounds: list[Round] = []
        self._lead = lead
        self._items = items
        self._clock = clock
        self._results = 0
        self._tokens = 0
        self._began = 0.0

    def add(self, result: Result) -> None:
        """One more result, just now."""
        self._results += 1
        self._tokens += result.usage.completion_tokens
        place, rest = divmod(self._results - self._lead, self._items)
        if rest or not 0 <= place <= ROUNDS:
            return
        now = self._clock()
        if place:
            self.rounds.append(Round(seconds=now - self._began, output_tokens=self._tokens))
        self._began, self._tokens = now, 0
