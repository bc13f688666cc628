"""The forecasts of the batches that run: what they learn together, and what each has to wait for."""

import math
import time
from collections.abc import Callable
from typing import TypeAlias

from app.batches.hindsight import Hindsight, PredictionQuality
from app.batches.lengths import LengthPrior
from app.batches.pace import Pace
from app.batches.prediction import BatchForecast, BatchSize, WorkAhead
from app.dispatch.item import Flow, Item
from engines.contract.protocol import Outcome, Result

MEMORY = 0.995  # of what was learned of lengths, with every further item
Clock: TypeAlias = Callable[[], float]
LEAST_SIGMA = 0.3  # batches differ more than the items of one


class LengthMemory:
    """Of what was asked for, how much items lately used, over all batches."""

    def __init__(self) -> None:
        self._weight = self._sum = self._squares = self._used = 0.0

    def add(self, used: float, asked: float) -> None:
        """An item used so many tokens of those that it asked for."""
        share = min(1.0, used / asked)
        log = math.log(share)
        self._weight = self._weight * MEMORY + 1
        self._sum = self._sum * MEMORY + log
        self._squares = self._squares * MEMORY + log * log
        self._used = self._used * MEMORY + share

    @property
    def used_share(self) -> float | None:
        """Used / asked tokens, on average. None before any item has finished."""
        return self._used / self._weight if self._weight else None

    @property
    def prior(self) -> LengthPrior:
        """For a batch that has not told anything."""
        if not self._weight:
            return LengthPrior()
        mean = self._sum / self._weight
        sigma = math.sqrt(max(0.0, self._squares / self._weight - mean * mean))
        return LengthPrior(mean, max(LEAST_SIGMA, sigma))


class RunForecast:
    """One batch's, told by its run what becomes of its items. One that `grows` knows of those alone that have come."""

    def __init__(
        self,
        flow: Flow,
        forecast: BatchForecast,
        memory: LengthMemory,
        ahead: Callable[[Flow], WorkAhead],
        clock: Clock,
        *,
        grows: bool,
    ) -> None:
        self.flow = flow
        self._grows = grows
        self._forecast = forecast
        self._memory = memory
        self._ahead = ahead
        self._clock = clock
        self._hindsight: Hindsight | None = None

    def look_back(self, items: int) -> None:
        """From now on predictions are kept, to be judged when so many items are done."""
        self._hindsight = Hindsight(items, self._clock)

    def item_came(self, item: Item) -> None:
        """It waits from now on."""
        if self._grows:
            self._forecast.grow(size_of([item]))

    def item_started(self, item: Item) -> None:
        """It was sent to a rank."""
        self._forecast.started(item.index, item.sequences)

    def item_lost(self, item: Item) -> None:
        """It will run again."""
        self._forecast.lost(item.index)

    def item_finished(self, item: Item, result: Result) -> None:
        """It has its result; only that of an answer tells how long answers are."""
        if self._forecast.holds(item.index):
            self._learn(item, result)
        else:
            self._forecast.drop(item.sequences)  # it never ran, or was lost and is given up
        if self._hindsight is not None:
            self._hindsight.one_more(self.seconds_left)

    def _learn(self, item: Item, result: Result) -> None:
        used = result.completion_tokens if result.outcome is Outcome.OK else 0
        self._forecast.finished(item.index, used, is_cut=2 * result.stopped_by_length > item.sequences)
        if used:
            self._memory.add(used, max(1, item.cost - item.prompt_tokens))

    def close(self) -> None:
        """Nothing more of the batch will run."""
        self._forecast.close()

    @property
    def expected_tokens(self) -> float:
        """That are left to generate, about."""
        return self._forecast.expected_tokens

    def seconds_left(self) -> float | None:
        """Until the batch is done, if nothing more is sent. None before anything was measured. Takes some 10 ms."""
        return self._forecast.predict(self._ahead(self.flow))

    def quality(self) -> PredictionQuality | None:
        """How good the predictions were, now that the batch is done. None where none was kept."""
        return None if self._hindsight is None else self._hindsight.quality()


class Forecasts:
    """Of all batches that run. `slots` tells how many sequences the ranks run at once."""

    def __init__(self, slots: Callable[[], int], clock: Clock = time.monotonic) -> None:
        self._slots = slots
        self._pace = Pace(max(1, slots()), clock)
        self._memory = LengthMemory()
        self._clock = clock
        self._open: set[RunForecast] = set()

    def begin(self, flow: Flow, size: BatchSize, *, grows: bool = False) -> RunForecast:
        """For a batch that begins; `size` is what its items may generate, or the first of one that `grows`. End it
        with `end`."""
        self._pace.slots = max(1, self._slots())
        forecast = BatchForecast(size, self._pace, self._memory.prior)
        run = RunForecast(flow, forecast, self._memory, self._ahead, self._clock, grows=grows)
        self._open.add(run)
        return run

    def end(self, forecast: RunForecast) -> None:
        """Its batch has ended. May be called twice."""
        forecast.close()
        self._open.discard(forecast)

    def seconds_for(self, flow: Flow, size: BatchSize) -> float | None:
        """How long a batch of this size would take if it were sent now."""
        return BatchForecast(size, self._pace, self._memory.prior).predict(self._ahead(flow))

    def seconds_of(self, steps: float) -> float:
        """What so many steps take when all sequences run; infinite before any was measured."""
        seconds = self._pace.seconds_per_token(max(1, self._slots()))
        return math.inf if seconds is None else steps * seconds

    def used_tokens(self, asked: int) -> int | None:
        """How many of so many tokens are likely to be generated. None before any item has finished."""
        share = self._memory.used_share
        return None if share is None else round(asked * share)

    def _ahead(self, flow: Flow) -> WorkAhead:
        """Strictly what has a lower priority value first; beside those of the same, owners get shares by weight."""
        self._pace.slots = max(1, self._slots())
        others = [other for other in self._open if other.flow is not flow and not other.flow.is_held_back]
        before = sum(other.expected_tokens for other in others if other.flow.priority < flow.priority)
        expected = {other.flow: other.expected_tokens for other in others if other.flow.priority == flow.priority}
        beside = [other for other, tokens in expected.items() if tokens]
        owner, owners = flow.owner, {flow.owner, *(other.owner for other in beside)}
        siblings = 1 + sum(other.owner == owner for other in beside)
        return WorkAhead(
            self._pace.slots,
            share=owner.weight / sum(one.weight for one in owners) / siblings,
            tokens_before=before,
            tokens_beside=sum(expected.values()),
        )


def size_of(items: list[Item]) -> BatchSize:
    """What these may generate, with the prompts' lengths as the gateway estimates them."""
    sequences = sum(item.sequences for item in items)
    return BatchSize(sequences, sum(item.cost - item.prompt_tokens for item in items))
