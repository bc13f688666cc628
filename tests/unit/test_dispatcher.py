"""Items on their way to ranks and back, with ranks that are played."""

import gc
import itertools
from collections import Counter
from collections.abc import Callable

import pytest
from dispatch_bench import Bench, aborted, assert_idle, make_items, ok

from app.dispatch import dispatcher
from app.dispatch.item import Flow, Item, ItemState
from app.dispatch.placement import Dispatch
from engines.contract.protocol import Outcome, Result


@pytest.fixture(autouse=True)
def never_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else the machine does: a pass of the event loop is not cut into parts by the clock."""
    monkeypatch.setattr(dispatcher, "LONGEST_PUMP_S", float("inf"))


def test_every_item_gets_its_result_in_one_go() -> None:
    bench = Bench(ranks=2)
    bench.submit(6)
    assert {rank: len(held) for rank, held in bench.held.items()} == {0: 3, 1: 3}
    bench.answer(0)
    bench.answer(1)
    assert len(bench.owner.results) == 6
    assert {result.outcome for result in bench.owner.results.values()} == {Outcome.OK}
    assert Counter(bench.owner.ranks.values()) == {0: 3, 1: 3}


def test_a_rank_gets_no_more_than_its_credit_and_the_rest_waits_in_the_gateway() -> None:
    bench = Bench(ranks=2, prefetch=1)
    bench.submit(100)
    assert [len(bench.held[rank]) for rank in (0, 1)] == [5, 5]
    assert (bench.dispatcher.backlog.items, bench.dispatcher.running_items) == (90, 10)
    bench.answer(1, *list(bench.held[1])[:2])
    assert [len(bench.held[rank]) for rank in (0, 1)] == [5, 5]
    assert bench.dispatcher.backlog.items == 88


def test_what_waits_for_a_slow_rank_is_nothing() -> None:
    """Late binding: while rank 0 is stuck, rank 1 does the rest."""
    bench = Bench(ranks=2)
    bench.submit(100)
    while bench.held[1]:
        bench.answer(1)
    assert len(bench.owner.results) == 96
    assert len(bench.held[0]) == 4


def test_each_rank_gets_one_message_however_many_items() -> None:
    bench = Bench(ranks=3)
    bench.submit(100)
    assert [rank for rank, _ in bench.sent] == [0, 1, 2]
    bench.sent.clear()
    bench.answer(1)
    assert [rank for rank, _ in bench.sent] == [1]


def test_batches_of_one_turn_go_in_one_message() -> None:
    due: list[Callable[[], None]] = []
    bench = Bench(ranks=1, prefetch=100, soon=due.append)
    for _ in range(3):
        bench.submit(2)
    assert (len(due), bench.sent) == (1, [])
    due.pop()()
    assert [len(run.items) for run in bench.runs(0)] == [6]
    bench.submit(1)
    assert len(due) == 1


def test_results_of_one_turn_are_followed_by_one_message_to_each_rank() -> None:
    due: list[Callable[[], None]] = []
    bench = Bench(ranks=2, soon=due.append)
    bench.submit(100)
    due.pop()()
    bench.sent.clear()
    for rank in (0, 1, 0, 1):
        bench.answer(rank, next(iter(bench.held[rank])))
    assert (len(due), bench.sent) == (1, [])
    due.pop()()
    assert sorted((rank, len(run.items)) for rank in (0, 1) for run in bench.runs(rank)) == [(0, 2), (1, 2)]


def test_equal_parameters_travel_once() -> None:
    bench = Bench(ranks=1, prefetch=100)
    flow = Flow(0)
    items = make_items(6, flow, owner=bench.owner)
    for item, name in zip(items, "aabacb", strict=True):
        item.params = b"params of " + name.encode()  # equal ones are not the same object
    bench.dispatcher.submit(flow, items)
    run = bench.runs(0)[0]
    assert run.params == [b"params of a", b"params of b", b"params of c"]
    assert [item.params for item in run.items] == [0, 0, 1, 0, 2, 1]


def test_a_rank_is_told_all_that_it_needs_of_an_item() -> None:
    bench = Bench(ranks=1)
    bench.submit(2)
    first, second = bench.runs(0)[0].items
    assert (first.prompt, first.params) == (b'"Hello"', 0)
    assert first.attempt != second.attempt
    item = bench.owner.started[0][0]
    assert (item.attempt, item.attempts, item.rank, item.state) == (first.attempt, 1, 0, ItemState.RUNNING)


def test_items_wait_until_a_rank_is_ready() -> None:
    bench = Bench()
    bench.submit(3)
    assert not bench.dispatcher.takes_items
    assert not bench.sent
    bench.ready(0)
    assert bench.dispatcher.takes_items
    assert len(bench.held[0]) == 3


def test_a_batch_smaller_than_the_ranks_uses_as_many_as_it_has_items() -> None:
    bench = Bench(ranks=8)
    bench.submit(3)
    bench.submit(2)
    assert [len(bench.held[rank]) for rank in range(8)] == [1, 1, 1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("dispatch", list(Dispatch))
def test_twenty_thousand_items_spread_evenly_over_equal_ranks(dispatch: Dispatch) -> None:
    bench = Bench(dispatch=dispatch)
    for rank in range(4):
        bench.ready(rank, max_num_seqs=256)
    bench.submit(20_000)
    while any(bench.held.values()):
        for rank in range(4):
            if bench.held[rank]:
                bench.answer(rank, *list(bench.held[rank])[:64])
    counts = Counter(bench.owner.ranks.values())
    assert sum(counts.values()) == 20_000
    assert max(counts.values()) <= 1.1 * min(counts.values())
    assert_idle(bench)


def test_results_of_a_former_life_are_dropped() -> None:
    bench = Bench(ranks=1)
    bench.submit(1)
    attempt = next(iter(bench.held[0]))
    bench.dispatcher.results(0, 0, [ok(attempt)])
    bench.dispatcher.results(7, 1, [ok(attempt)])
    assert not bench.owner.results
    bench.answer(0)
    assert len(bench.owner.results) == 1


def test_cancelling_frees_what_waits_and_aborts_what_runs() -> None:
    bench = Bench(ranks=2)
    flow = bench.submit(20)
    other = bench.submit(1)
    bench.dispatcher.cancel(flow)
    assert bench.dispatcher.backlog.items == 1
    assert sorted(bench.aborts(0) + bench.aborts(1)) == sorted([*bench.held[0], *bench.held[1]])
    assert all(not item.prompt for item, _ in bench.owner.started if item.state is not ItemState.DONE)
    bench.answer(0, make=aborted)
    assert [item.flow for item, _ in bench.owner.started][-1] is other


def test_results_of_cancelled_items_free_the_credit_and_reach_nobody() -> None:
    bench = Bench(ranks=1)
    flow = bench.submit(4)
    bench.dispatcher.cancel(flow)
    assert bench.dispatcher.credit(0) == 0
    attempts = list(bench.held[0])
    bench.answer(0, *attempts[:2], make=aborted)
    bench.answer(0, *attempts[2:], make=ok)
    assert not bench.owner.results
    assert_idle(bench)


def test_cancelling_twice_asks_once() -> None:
    bench = Bench(ranks=1)
    flow = bench.submit(3)
    bench.dispatcher.cancel(flow)
    bench.dispatcher.cancel(flow)
    assert len(bench.aborts(0)) == 3


def test_a_rank_lost_with_cancelled_items_says_nothing_of_them() -> None:
    bench = Bench(ranks=1)
    bench.dispatcher.cancel(bench.submit(3))
    bench.lose(0)
    assert not bench.owner.results
    assert not bench.dispatcher.running_items


def test_a_large_item_waits_for_room_and_is_not_overtaken_for_ever() -> None:
    bench = Bench(ranks=1)
    bench.submit(3)
    large = bench.submit(1, n=4)
    bench.submit(10)
    bench.answer(0, *list(bench.held[0])[:2])
    assert len(bench.held[0]) == 1
    bench.answer(0)
    assert {item.flow for item, _ in bench.owner.started[3:]} == {large}


def test_prompts_are_forgotten_once_they_are_answered() -> None:
    bench = Bench(ranks=1)
    bench.submit(3)
    bench.answer(0)
    assert all(item.prompt == b"" for item in bench.owner.results)


def test_only_work_that_was_done_counts_for_the_rate() -> None:
    bench = Bench(ranks=1)
    flow = bench.submit(3, max_tokens=7)
    attempts = list(bench.held[0])
    bench.answer(0, attempts[0])
    assert bench.completed_tokens == 7
    bench.dispatcher.cancel(flow)
    bench.answer(0, attempts[1], make=aborted)
    bench.lose(0)
    assert bench.completed_tokens == 7


def test_tokens_outstanding_are_those_that_wait_or_run() -> None:
    bench = Bench(ranks=1)
    bench.submit(6, prompt_tokens=1, max_tokens=9)
    assert bench.dispatcher.outstanding_tokens == 60
    bench.answer(0, *list(bench.held[0])[:1])
    assert bench.dispatcher.outstanding_tokens == 50


def test_an_answer_the_rank_did_not_owe_is_ignored() -> None:
    bench = Bench(ranks=1)
    bench.submit(1)
    bench.dispatcher.results(0, 1, [Result(4711, Outcome.OK)])
    assert not bench.owner.results
    assert bench.dispatcher.held(0) == 1


def test_nothing_of_a_batch_stays_behind_when_it_has_ended() -> None:
    """Neither items nor flows pile up in the dispatcher, however many batches come and go."""
    bench = Bench(ranks=2)
    before = items_in_memory()
    for number in range(300):
        flow = bench.submit(5, priority=number)
        if number % 3:
            bench.dispatcher.cancel(flow)
        for rank in (0, 1):
            if bench.held[rank]:
                bench.answer(rank)
        if number % 50 == 49:
            bench.lose(0)
            bench.ready(0)
    assert_idle(bench)
    del flow
    bench.owner.forget()
    assert items_in_memory() == before


def items_in_memory() -> int:
    gc.collect()
    return sum(type(thing) in (Item, Flow) for thing in gc.get_objects())  # isinstance would wake others' properties


def test_a_backlog_that_is_slow_to_order_is_sent_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between which others have their turn of the event loop."""
    due: list[Callable[[], None]] = []
    ticks = itertools.count(step=0.008)
    bench = Bench(soon=due.append, clock=lambda: next(ticks))
    bench.submit(4)
    due.clear()
    bench.dispatcher._is_pump_due = False
    monkeypatch.setattr(dispatcher, "LONGEST_PUMP_S", 0.02)
    bench.ready(0)
    sizes = [len(bench.held[0])]
    while due:
        due.pop()()
        sizes.append(len(bench.held[0]))
    assert sizes[-1] == 4
    assert len(set(sizes)) > 2
