"""Gives a service the work and takes the time: of rounds within one long batch, or of batches as large as the user's.

In a long batch a round counts only while all sequences are busy. Rounds that were batches of their own would have their
beginnings and ends counted, which take the longer the more sequences there are, and hide most of what those gain.

A round's tokens are those that the engines say they made in it. The lengths of the answers that came in it are others:
where the longest leave first, most of what they have was made before.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from phalanx.client import Client, Result, ResultStream
from phalanx.tune.trials import ROUNDS, Round, Trial
from phalanx.tune.workload import Item, Workload

WARM_UP = 0  # the number of the batch that does not count
GENERATED = re.compile(r"^\w+:generation_tokens_total\{.*\} (\S+)$", re.MULTILINE)


class CandidateFailed(Exception):
    """It cannot be used. The message says why."""


@dataclass(frozen=True)
class Work:
    """What every candidate gets. `metrics` are the service's, at any time. `timeout_s` is of a batch; None: as the
    service has it."""

    workload: Workload
    client: Client
    metrics: Callable[[], str]
    stage: Callable[[str], None]
    timeout_s: float | None

    def warm_up(self, items: int) -> float:
        """How many seconds it took."""
        self.stage("warming up")
        began = time.monotonic()
        self._batch(self.workload.items(WARM_UP, 0, items))
        return time.monotonic() - began

    def whole(self, trial: Trial, before: int, items: int) -> None:
        """Batches of so many items, each measured as a whole, after so many of them in former starts."""
        for number in range(1, ROUNDS + 1):
            self.stage(f"round {number} of {ROUNDS}, {items} items")
            place, began = before + number, time.monotonic()
            done = self._batch(self.workload.items(place, place * items, items))
            trial.tails_s.append(done.tail_s)
            trial.rounds.append(_round(time.monotonic() - began, done.tokens))

    def steady(self, trial: Trial, before: int, fill: int, items: int) -> None:
        """Rounds of so many items while `fill` sequences are busy: as many items come before the first and after the
        last. `before` is how many such batches there were in former starts."""
        self.stage(f"{ROUNDS} rounds of {items} items")
        windows = Windows(fill, items, lambda: generated(self.metrics()))
        batch = self.workload.items(before + 1, 0, items_of_steady(fill, items))
        trial.tails_s.append(self._batch(batch, windows.add).tail_s)
        trial.rounds += windows.rounds

    def _batch(self, items: list[Item], took: Callable[[Result], None] = lambda _: None) -> "_Done":
        """Calls `took` with each result. Items that are refused for what they are would be refused by every candidate,
        and count for none."""
        failed, why = 0, ""
        options: dict[str, Any] = {} if self.timeout_s is None else {"timeout_s": self.timeout_s}  # Any: as typed there
        with self.client.generate(items, sampling_params=self.workload.sampling_params, **options) as results:
            for result in results:
                took(result)
                if not result.ok:
                    why = result.error.message if result.error else result.status
                    failed += result.error is None or result.error.retryable
        return _done(results, failed, len(items), why)


def items_of_steady(fill: int, items: int) -> int:
    """Of the whole batch that has rounds of so many items."""
    return 2 * fill + ROUNDS * items


def generated(metrics: str) -> float:
    """How many tokens all ranks have made, by what the service tells."""
    return sum(map(float, GENERATED.findall(metrics)))


def _round(seconds: float, tokens: int) -> Round:
    if tokens <= 0 or seconds <= 0:
        raise CandidateFailed(
            f"a round made {tokens} tokens in {seconds:.3g} s: its items were refused, or are too few to be timed"
        )
    return Round(seconds=seconds, output_tokens=tokens)


@dataclass(frozen=True)
class _Done:
    """What a batch says of itself at its end."""

    tail_s: float
    tokens: int  # of its answers


def _done(results: ResultStream, failed: int, count: int, why: str) -> _Done:
    summary = results.summary
    if failed or summary is None or summary.stats is None or not summary.request_counts.ok:
        raise CandidateFailed(f"{failed or count} of {count} items failed, the last because: {why}")
    return _Done(float(summary.stats["tail_s"]), summary.usage.completion_tokens)


class Windows:
    """Rounds by the count of results: `items` each, after the first `lead`. `generated` tells all tokens so far."""

    def __init__(
        self, lead: int, items: int, generated: Callable[[], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rounds: list[Round] = []
        self._lead = lead
        self._items = items
        self._generated = generated
        self._clock = clock
        self._results = 0
        self._before = (0.0, 0.0)  # the time when the round began, and the tokens by then

    def add(self, _: Result) -> None:
        """One more result, just now."""
        self._results += 1
        place, rest = divmod(self._results - self._lead, self._items)
        if rest or not 0 <= place <= ROUNDS:
            return
        tokens, now = self._generated(), self._clock()
        began, before = self._before
        if place:
            self.rounds.append(_round(now - began, round(tokens - before)))
        self._before = now, tokens
