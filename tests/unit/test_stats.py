"""`stats` of an answer, on a clock that goes when it is told to."""

from types import SimpleNamespace

import pytest

from app.batches import stats
from app.batches.stats import Stats, StatsKeeper
from engines.contract.protocol import Outcome, Result


class Clock:
    """Seconds since the batch was admitted."""

    def __init__(self) -> None:
        self.now = 1000.0

    def at(self, second: float) -> None:
        self.now = 1000.0 + second


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stats, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def done(prompt_tokens: int = 10, completion_tokens: int = 0, by_length: int = 0) -> Result:
    return Result(
        1,
        Outcome.OK,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        stopped_by_length=by_length,
    )


def test_times_are_told_from_admission(clock: Clock) -> None:
    keeper = StatsKeeper()
    clock.at(2)
    keeper.started(1)
    keeper.started(0)
    clock.at(5)
    keeper.finished(0, done(completion_tokens=10))
    clock.at(9)
    keeper.finished(1, done(completion_tokens=30, by_length=1))
    keeper.end()
    clock.at(100)  # an answer may be read late
    found = keeper.summary()
    assert (found.wall_s, found.queue_s, found.tail_s) == (9, 2, 4)
    assert found.balance_ratio == 0.75  # 20 and 40 tokens
    assert found.stopped_by_length == 1
    assert [(share.rank, share.items, share.busy_s) for share in found.ranks] == [(0, 1, 3), (1, 1, 7)]
    assert (found.ranks[1].prompt_tokens, found.ranks[1].completion_tokens) == (10, 30)


def test_a_rank_is_busy_while_it_holds_an_item_of_the_batch(clock: Clock) -> None:
    keeper = StatsKeeper()
    keeper.started(0)
    clock.at(1)
    keeper.started(0)
    clock.at(3)
    keeper.finished(0, done())
    clock.at(4)
    keeper.finished(0, done())  # held from 0 to 4
    clock.at(10)
    keeper.started(0)
    clock.at(11)
    keeper.finished(0, done())  # and from 10 to 11
    keeper.end()
    assert keeper.summary().ranks[0].busy_s == 5
    assert keeper.summary().ranks[0].busy_s == 5  # to ask is not to change
    assert keeper.summary().tail_s == 0


def test_what_was_given_up_on_a_rank_counts_as_its_time(clock: Clock) -> None:
    keeper = StatsKeeper()
    keeper.started(0)
    clock.at(6)
    keeper.end()
    found = keeper.summary()
    assert (found.ranks[0].items, found.ranks[0].busy_s) == (0, 6)
    assert (found.balance_ratio, found.tail_s) == (None, 0)


def test_a_batch_that_no_rank_saw_has_no_ranks(clock: Clock) -> None:
    keeper = StatsKeeper()
    clock.at(3)
    keeper.end()
    assert keeper.summary() == Stats(wall_s=3, queue_s=3, tail_s=0, balance_ratio=None, stopped_by_length=0, ranks=[])
