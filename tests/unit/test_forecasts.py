"""What the batches that run learn together, what each waits for, and how good predictions were in hindsight."""

import pytest
from batch_bench import make_items, make_run

from app.batches.forecasts import Forecasts, RunForecast, size_of
from app.batches.hindsight import LEAST_ITEMS, LEAST_S, Hindsight, PredictionQuality
from app.batches.prediction import BatchSize
from app.dispatch.item import Flow, Item, Owner
from engines.contract.protocol import Outcome, Result

SLOTS, STEP_S, ASKED = 8, 0.01, 100
HUNDRED = BatchSize(100, 100 * ASKED)


class Bench:
    """Forecasts of ranks that make a step in 10 ms, however many sequences there are, and have run a batch before
    whose items used half of what they asked for."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.forecasts = Forecasts(lambda: SLOTS, lambda: self.now_s)
        self.forecasts.end(self.run(*self.begin(64)))

    def begin(self, count: int, priority: int = 0, owner: str = "") -> tuple[RunForecast, list[Item]]:
        """A batch of so many items, each of which asks for 100 tokens."""
        run = make_run(count, priority=priority, owner=Owner(owner))
        items = make_items(run, max_tokens=ASKED)
        return self.forecasts.begin(run.flow, size_of(items)), items

    def run(self, forecast: RunForecast, items: list[Item]) -> RunForecast:
        """All of them to their ends, as many at once as there are slots."""
        for place in range(0, len(items), SLOTS):
            for item in items[place : place + SLOTS]:
                forecast.item_started(item)
            self.now_s += ASKED // 2 * STEP_S
            for item in items[place : place + SLOTS]:
                forecast.item_finished(item, Result(0, Outcome.OK, completion_tokens=ASKED // 2))
        return forecast

    def seconds_for_hundred(self, flow: Flow) -> float:
        found = self.forecasts.seconds_for(flow, HUNDRED)
        assert found is not None
        return found


def test_what_other_batches_used_is_expected_of_the_next_one() -> None:
    bench = Bench()
    assert bench.forecasts.used_tokens(1000) == 500
    assert bench.seconds_for_hundred(Flow(0)) == pytest.approx(100 / SLOTS * 50 * STEP_S, rel=0.2)
    fresh = Forecasts(lambda: SLOTS)
    assert (fresh.used_tokens(1000), fresh.seconds_for(Flow(0), HUNDRED)) == (None, None)


def test_who_comes_first_is_waited_for_and_who_comes_beside_is_shared_with() -> None:
    bench = Bench()
    alone = bench.seconds_for_hundred(Flow(0))
    other, _ = bench.begin(100, owner="other")
    assert bench.seconds_for_hundred(Flow(1)) == pytest.approx(2 * alone, rel=0.2), "it has to wait for the other"
    assert bench.seconds_for_hundred(Flow(-1)) == pytest.approx(alone), "it passes the other"
    assert 1.5 * alone < bench.seconds_for_hundred(Flow(0)) < 2.3 * alone
    weighty = bench.seconds_for_hundred(Flow(0, Owner("weighty", weight=9)))
    assert weighty < 1.3 * alone, "nine tenths are its own"
    other.flow.is_held_back = True
    assert bench.seconds_for_hundred(Flow(0)) == pytest.approx(alone), "nothing of the other is dispatched"
    other.flow.is_held_back = False
    bench.forecasts.end(other)
    assert bench.seconds_for_hundred(Flow(0)) == pytest.approx(alone)


def test_a_batch_whose_size_nobody_knows_is_as_large_as_what_has_come() -> None:
    bench = Bench()
    run = make_run(40)
    grown = bench.forecasts.begin(run.flow, size_of([]), grows=True)
    items = make_items(run, max_tokens=ASKED)
    known, _ = bench.begin(40)
    assert grown.expected_tokens == 0
    for item in items:
        grown.item_came(item)
        known.item_came(item)
    assert grown.expected_tokens == known.expected_tokens > 0, "the other knew of them before"
    bench.run(grown, items)
    assert grown.expected_tokens == 0
    assert grown.quality() is None


def test_items_that_never_ran_or_came_back_are_not_waited_for_in_the_end() -> None:
    bench = Bench()
    forecast, items = bench.begin(3)
    forecast.item_started(items[0])
    forecast.item_lost(items[0])
    for item in items:
        forecast.item_finished(item, Result(0, Outcome.ERROR))
    assert forecast.expected_tokens == 0
    assert forecast.seconds_left() == 0


def test_how_good_predictions_were_is_known_at_the_end() -> None:
    bench = Bench()
    forecast, items = bench.begin(800)
    forecast.look_back(len(items))
    bench.run(forecast, items)
    quality = forecast.quality()
    assert quality is not None
    for ratio in (quality.quarter, quality.half, quality.three_quarters):
        assert isinstance(ratio, float) and 0.8 < ratio < 1.25


@pytest.mark.parametrize(("items", "each_s"), [(LEAST_ITEMS - 4, 1.0), (LEAST_ITEMS, LEAST_S / 2 / LEAST_ITEMS)])
def test_small_and_short_batches_are_not_predicted(items: int, each_s: float) -> None:
    now_s, asked = 0.0, []

    def predict() -> float:
        asked.append(now_s)
        return 1.0

    hindsight = Hindsight(items, lambda: now_s)
    for _ in range(items):
        now_s += each_s
        hindsight.one_more(predict)
    assert (asked, hindsight.quality()) == ([], None)


def test_a_mark_at_which_nothing_could_be_predicted_is_left_out() -> None:
    now_s = 0.0
    hindsight = Hindsight(100, lambda: now_s)
    for done in range(1, 101):
        now_s += 1.0
        hindsight.one_more(lambda done=done: None if done < 50 else 100.0)
    assert hindsight.quality() == PredictionQuality(half=2.0, three_quarters=4.0)
