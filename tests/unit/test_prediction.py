"""Predictions against made-up schedules: from a quarter of a batch on, half of them are within 20 %."""

import random

import pytest
from schedules import Job, Ranks, lognormal, used_ranks

from app.batches.lengths import LengthPrior
from app.batches.prediction import BatchForecast, BatchSize, WorkAhead

MARKS = (0.25, 0.375, 0.5, 0.625, 0.75, 0.9)
STEPS = ({"base_s": 0.01, "slope_s": 1e-4}, {"base_s": 0.02, "slope_s": 2e-5})
SHAPES = ((0.4, 500), (0.8, 500), (0.8, 2000), (1.2, 2000))  # the logarithm's deviation, and max_tokens


def close(ratios: list[float]) -> float:
    """The share of predictions within 20 % of the true time."""
    return sum(abs(ratio - 1) <= 0.2 for ratio in ratios) / len(ratios)


@pytest.mark.parametrize("items", [100, 300, 1000, 5000])
def test_half_of_the_predictions_are_within_a_fifth(items: int) -> None:
    ratios = []
    for seed, steps in enumerate(STEPS):
        for sigma, max_tokens in SHAPES if items < 1000 else SHAPES[2:3]:
            lengths = lognormal(random.Random(100 * seed + items), items, 200, sigma)
            ratios += used_ranks(**steps).run(Job(lengths, max_tokens), marks=MARKS)
    assert close(ratios) >= (0.5 if items < 1000 else 0.9)


@pytest.mark.parametrize("items", [300, 1000])
def test_a_second_batch_that_shares_the_ranks_is_reckoned_with(items: int) -> None:
    ratios = []
    for steps in STEPS:
        for sigma, max_tokens in SHAPES[1:] if items < 1000 else SHAPES[1:2]:
            chance = random.Random(items)
            first, second = (lognormal(chance, items, 200, sigma) for _ in range(2))
            ratios += used_ranks(**steps).run(Job(first, max_tokens), Job(second, max_tokens, 3.0), marks=MARKS)
    assert close(ratios) >= (0.5 if items < 1000 else 0.8)


def test_the_first_batch_of_all_is_predicted_too() -> None:
    """How a step's time depends on the number of sequences is not known then, which matters for the last ones only."""
    assert close(Ranks().run(Job(lognormal(random.Random(1), 3000, 200, 0.8), 1000), marks=MARKS)) >= 0.5


@pytest.mark.parametrize("lengths", [[300] * 1000, list(range(1, 601)) * 2], ids=["equal", "even"])
def test_lengths_of_other_kinds_are_learned(lengths: list[int]) -> None:
    random.Random(2).shuffle(lengths)
    assert close(used_ranks().run(Job(lengths, 700), marks=MARKS)) >= 0.8


def test_short_answers_that_finish_first_do_not_mislead() -> None:
    """The mean of those that have finished would promise a third of the time."""
    lengths = [50, 450] * 600
    random.Random(3).shuffle(lengths)
    early = used_ranks().run(Job(lengths, 500), marks=(0.25,))
    assert 0.8 < early[0] < 1.25


def test_nothing_is_predicted_before_anything_was_measured() -> None:
    ranks = Ranks()
    forecast = BatchForecast(BatchSize(10, 1000), ranks.pace, LengthPrior())
    assert forecast.predict(WorkAhead(slots=256)) is None
    forecast.started(0)
    assert forecast.predict(WorkAhead(slots=256)) is None
    ranks.now_s = 1.0
    forecast.finished(0, 50)
    assert forecast.predict(WorkAhead(slots=256)) is not None


def test_what_comes_before_a_batch_takes_its_time_first() -> None:
    forecast = BatchForecast(BatchSize(1000, 100_000), used_ranks().pace, LengthPrior())
    alone, behind = (forecast.predict(WorkAhead(256, tokens_before=tokens)) for tokens in (0.0, 256_000.0))
    assert alone is not None and behind is not None
    assert behind - alone == pytest.approx(1000 * (0.01 + 256e-4), rel=0.2)


def test_a_batch_of_millions_is_predicted_without_playing_all_of_it() -> None:
    pace = used_ranks().pace
    some, more = (BatchForecast(BatchSize(n, 1000 * n), pace, LengthPrior()) for n in (10**5, 10**7))
    short, long = some.predict(WorkAhead(256)), more.predict(WorkAhead(256))
    assert short is not None and long is not None
    assert long / short == pytest.approx(100, rel=0.1)


def test_an_item_that_was_lost_waits_again_and_a_closed_batch_has_nothing_left() -> None:
    ranks = used_ranks()
    forecast = BatchForecast(BatchSize(2, 200), ranks.pace, LengthPrior())
    fresh = forecast.expected_tokens
    forecast.started(0)
    assert forecast.expected_tokens < fresh
    assert ranks.pace.running == 1
    forecast.lost(0)
    assert (forecast.expected_tokens, ranks.pace.running) == (fresh, 0)
    forecast.started(0)
    forecast.close()
    assert (forecast.expected_tokens, ranks.pace.running) == (0, 0)
    assert forecast.predict(WorkAhead(256)) == 0
