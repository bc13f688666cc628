"""`stats` of an answer, on a clock that goes when it is told to."""

import pytest
from dispatch_bench import make_item
from msgspec import UNSET

from app.batches.stats import Stats, StatsKeeper
from app.dispatch.item import Flow
from engines.contract.protocol import Outcome, Result

ITEM = make_item(Flow(0))


class Clock:
    """Seconds since the batch was admitted."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def at(self, second: float) -> None:
        self.now = 1000.0 + second


@pytest.fixture
def clock() -> Clock:
    return Clock()


def done(prompt_tokens: int = 10, completion_tokens: int = 0, by_length: int = 0) -> Result:
    return Result(
        1,
        Outcome.OK,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        stopped_by_length=by_length,
    )


def test_times_are_told_from_admission(clock: Clock) -> None:
    keeper = StatsKeeper(clock)
    clock.at(2)
    keeper.started(1, ITEM)
    keeper.started(0, ITEM)
    clock.at(5)
    keeper.finished(0, ITEM, done(completion_tokens=10))
    clock.at(9)
    keeper.finished(1, ITEM, done(completion_tokens=30, by_length=1))
    keeper.end()
    clock.at(100)  # an answer may be read late
    found = keeper.summary()
    assert (found.wall_s, found.queue_s, found.tail_s) == (9, 2, 4)
    assert found.balance_ratio == 0.75  # 20 and 40 tokens
    assert found.stopped_by_length == 1
    assert [(share.rank, share.items, share.busy_s) for share in found.ranks] == [(0, 1, 3), (1, 1, 7)]
    assert (found.ranks[1].prompt_tokens, found.ranks[1].completion_tokens) == (10, 30)


def test_a_rank_is_busy_while_it_holds_an_item_of_the_batch(clock: Clock) -> None:
    keeper = StatsKeeper(clock)
    keeper.started(0, ITEM)
    clock.at(1)
    keeper.started(0, ITEM)
    clock.at(3)
    keeper.finished(0, ITEM, done())
    clock.at(4)
    keeper.finished(0, ITEM, done())  # held from 0 to 4
    clock.at(10)
    keeper.started(0, ITEM)
    clock.at(11)
    keeper.finished(0, ITEM, done())  # and from 10 to 11
    keeper.end()
    assert keeper.summary().ranks[0].busy_s == 5
    assert keeper.summary().ranks[0].busy_s == 5  # to ask is not to change
    assert keeper.summary().tail_s == 0


def test_what_was_given_up_on_a_rank_counts_as_its_time(clock: Clock) -> None:
    keeper = StatsKeeper(clock)
    keeper.started(0, ITEM)
    clock.at(6)
    keeper.end()
    found = keeper.summary()
    assert (found.ranks[0].items, found.ranks[0].busy_s) == (0, 6)
    assert (found.balance_ratio, found.tail_s) == (None, 0)


def test_a_batch_that_no_rank_saw_has_no_ranks(clock: Clock) -> None:
    keeper = StatsKeeper(clock)
    clock.at(3)
    keeper.end()
    assert keeper.summary() == Stats(wall_s=3, queue_s=3, tail_s=0, balance_ratio=None, stopped_by_length=0, ranks=[])


def test_what_the_order_gained_is_played_with_the_true_lengths(clock: Clock) -> None:
    """On two sequences: as they came, the long one would have begun last."""
    keeper, flow = StatsKeeper(clock), Flow(0)
    items = [make_item(flow, index=index, max_tokens=80 if index == 4 else 20) for index in range(5)]
    flow.waiting.extend(items)
    flow.waiting.look_for_end(2, lambda _: True)
    held = []
    while flow.waiting:
        while len(held) < 2:
            held.append(flow.waiting.pop())
            keeper.started(0, held[-1])
        ended = held.pop()
        keeper.finished(0, ended, done(completion_tokens=ended.max_tokens // 2))
    clock.at(6)
    keeper.finished(0, held[0], done(completion_tokens=40))
    keeper.end()
    assert keeper.summary().order_gain_s == pytest.approx(6 * (60 / 40 - 1))


def test_an_order_that_nothing_depended_on_is_not_told(clock: Clock) -> None:
    keeper = StatsKeeper(clock)
    keeper.started(0, ITEM)
    keeper.finished(0, ITEM, done())
    keeper.end()
    assert keeper.summary().order_gain_s is UNSET
