"""What becomes of items whose rank is lost, gives them up, or is to take nothing new."""

from collections import Counter

import pytest
from dispatch_bench import Bench, assert_idle, finish, ok

from app.ranks.events import LossKind
from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.protocol import Outcome, Result

GAVE_UP = ItemError(ItemErrorCode.ENGINE_ERROR, "the engine ended the generation with 'abort'")


def test_what_a_lost_rank_held_runs_again_and_every_item_has_one_result() -> None:
    bench = Bench(ranks=2)
    bench.submit(12)
    on_0 = list(bench.held[0])
    bench.lose(0)
    assert not bench.owner.results
    assert [(item.attempt, rank) for item, rank in bench.owner.lost] == [(attempt, 0) for attempt in on_0]
    bench.lose(0, reason="again")
    bench.dispatcher.results(0, 1, [ok(attempt) for attempt in on_0])
    assert not bench.owner.results, "a dead incarnation answered"
    bench.ready(0)
    finish(bench)
    assert len(bench.owner.results) == 12
    assert sorted(item.attempts for item in bench.owner.results) == [1] * 8 + [2] * 4
    assert_idle(bench)


def test_what_an_operator_ended_goes_back_to_the_head_of_the_backlog() -> None:
    bench = Bench(ranks=2)
    bench.submit(12)
    bench.lose(0, kind=LossKind.ENDED)
    assert bench.dispatcher.backlog.items == 8
    bench.answer(1, *list(bench.held[1])[:2])
    again = [item.index for item, _ in bench.owner.started[-2:]]
    assert again == [item.index for item, _ in bench.owner.lost[:2]]
    finish(bench)
    assert len(bench.owner.results) == 12


def test_an_attempt_that_an_engine_gave_up_is_made_again_and_not_for_ever() -> None:
    bench = Bench(ranks=1)
    bench.submit(1)
    for _ in range(2):
        bench.answer(0, make=lambda attempt: Result(attempt, Outcome.LOST, error=GAVE_UP))
        assert not bench.owner.results
    bench.answer(0, make=lambda attempt: Result(attempt, Outcome.LOST, error=GAVE_UP))
    ((item, result),) = bench.owner.results.items()
    assert (item.attempts, result.error) == (3, GAVE_UP)
    assert_idle(bench)


def test_an_attempt_that_was_ended_unasked_for_the_last_time_is_an_error_that_says_so() -> None:
    bench = Bench(ranks=1)
    bench.submit(1)
    for _ in range(3):
        assert not bench.owner.results
        bench.answer(0, make=lambda attempt: Result(attempt, Outcome.ABORTED))
    ((_, result),) = bench.owner.results.items()
    assert result.outcome is Outcome.ERROR
    assert result.error is not None and result.error.code is ItemErrorCode.ENGINE_ERROR
    assert_idle(bench)


def test_a_held_group_finishes_and_takes_nothing_new() -> None:
    bench = Bench(ranks=2)
    bench.submit(12)
    bench.dispatcher.group_draining(0)
    assert bench.dispatcher.takes_items
    bench.answer(0)
    assert not bench.held[0]
    finish(bench)
    assert Counter(bench.owner.ranks.values()) == {0: 4, 1: 8}
    bench.dispatcher.group_draining(1)
    assert not bench.dispatcher.takes_items


def test_a_held_group_that_comes_back_takes_nothing_new_either() -> None:
    bench = Bench()
    bench.submit(12)
    bench.ready(0, takes_items=False)
    assert not bench.held[0]
    assert not bench.dispatcher.takes_items
    bench.ready(1)
    assert len(bench.held[1]) == 4


def test_a_group_that_is_ready_twice_is_a_fault() -> None:
    bench = Bench(ranks=1)
    with pytest.raises(RuntimeError):
        bench.ready(0)


def test_a_drained_group_that_comes_back_takes_over_nobodys_trial() -> None:
    bench = Bench(2)
    bench.submit(8)
    bench.dispatcher.group_draining(0)
    bench.lose(1)
    bench.answer(0)
    bench.lose(0)
    bench.dispatcher.group_given_up(1)
    bench.ready(0, takes_items=False)
    assert not bench.held[0]
    bench.lose(0, kind=LossKind.ENDED)
    bench.ready(0)  # an operator has restarted it
    assert bench.held[0]
