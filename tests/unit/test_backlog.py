"""The order in which items leave the backlog, and its counters."""

from collections import Counter

import pytest
from dispatch_bench import head_of, make_item, make_items

from app.dispatch.backlog import Backlog
from app.dispatch.item import Flow, Item

QUANTUM = 100


def filled(**flows: tuple[Flow, list[Item]]) -> tuple[Backlog, dict[int, str]]:
    backlog = Backlog(QUANTUM)
    for flow, items in flows.values():
        backlog.add(flow, items)
    return backlog, {id(flow): name for name, (flow, _) in flows.items()}


def batch(count: int, max_tokens: int, priority: int = 0) -> tuple[Flow, list[Item]]:
    flow = Flow(priority)
    return flow, make_items(count, flow, max_tokens=max_tokens)


def drain(backlog: Backlog, names: dict[int, str], count: int | None = None) -> list[str]:
    order = []
    while head_of(backlog) is not None and len(order) != count:
        order.append(names[id(backlog.pop().flow)])
    return order


def test_items_of_one_batch_leave_in_their_order() -> None:
    flow, items = batch(20, 30)
    backlog = Backlog(QUANTUM)
    backlog.add(flow, items)
    assert [backlog.pop() for _ in items] == items


def test_head_shows_what_pop_takes() -> None:
    backlog, _ = filled(a=batch(3, 70), b=batch(3, 30))
    while (head := head_of(backlog)) is not None:
        assert head_of(backlog) is head
        assert backlog.pop() is head


def test_nothing_waits_in_an_empty_backlog() -> None:
    backlog = Backlog(QUANTUM)
    assert head_of(backlog) is None
    with pytest.raises(LookupError):
        backlog.pop()


def test_lower_priorities_run_first_whatever_their_size() -> None:
    backlog, names = filled(later=batch(3, 1, priority=1), first=batch(5, 1000, priority=-1), then=batch(2, 50))
    assert drain(backlog, names) == ["first"] * 5 + ["then"] * 2 + ["later"] * 3


def test_a_lower_priority_that_comes_late_overtakes() -> None:
    backlog, names = filled(slow=batch(5, 10))
    backlog.pop()
    urgent, items = batch(2, 10, priority=-5)
    backlog.add(urgent, items)
    names[id(urgent)] = "urgent"
    assert drain(backlog, names) == ["urgent", "urgent", "slow", "slow", "slow", "slow"]


def test_batches_take_turns_of_a_quantum() -> None:
    backlog, names = filled(a=batch(20, 10), b=batch(20, 10))
    assert drain(backlog, names) == ["a"] * 10 + ["b"] * 10 + ["a"] * 10 + ["b"] * 10


@pytest.mark.parametrize("large", [40, 350])
def test_batches_of_unequal_items_get_equal_tokens(large: int) -> None:
    """In any long stretch, whatever the costs; larger than the quantum, too."""
    backlog, names = filled(small=batch(20_000, 5), large=batch(20_000, large))
    counts = Counter(drain(backlog, names, 10_000))
    assert counts["small"] * 5 == pytest.approx(counts["large"] * large, abs=2 * QUANTUM + large)


def test_an_item_of_many_quanta_does_not_take_as_many_steps() -> None:
    """Two thousand million tokens may be accepted at once, and the quantum may be 1."""
    backlog = Backlog(1)
    huge, others = Flow(0), Flow(0)
    backlog.add(huge, [make_item(huge, max_tokens=10**15)])
    backlog.add(others, [make_item(others, max_tokens=10**15 - 1)])
    assert backlog.pop().flow is others
    assert backlog.pop().flow is huge


def test_a_long_batch_is_not_starved_by_short_ones_that_come_and_go() -> None:
    """The turn after a batch that has run empty is the next one's, with its quantum."""
    backlog, names = filled(long=batch(1000, 100))
    short: list[Flow] = []
    order = []
    for _ in range(99):
        while sum(bool(flow.waiting) for flow in short) < 2:
            flow, items = batch(1, 100)
            short.append(flow)
            names[id(flow)] = "short"
            backlog.add(flow, items)
        order += drain(backlog, names, 1)
    assert Counter(order)["long"] == 33


def test_a_new_batch_waits_for_no_more_than_a_turn_of_each_other() -> None:
    backlog, names = filled(a=batch(1000, 10), b=batch(1000, 10))
    drain(backlog, names, 3)
    new, items = batch(1, 10)
    backlog.add(new, items)
    names[id(new)] = "new"
    assert drain(backlog, names, 18) == ["a"] * 7 + ["b"] * 10 + ["new"]


def test_a_new_batch_comes_first_beside_one_that_had_a_turn_alone() -> None:
    backlog, names = filled(long=batch(1000, 10))
    drain(backlog, names, 15)
    new, items = batch(30, 10)
    backlog.add(new, items)
    names[id(new)] = "new"
    assert drain(backlog, names, 30) == ["new"] * 10 + ["long"] * 10 + ["new"] * 10


@pytest.mark.parametrize("count", [1, 5, 10, 11, 30])
def test_who_comes_again_and_again_gets_no_more_than_who_is_always_there(count: int) -> None:
    """Were each new batch the next one, small ones would have every turn."""
    backlog, names = filled(long=batch(2000, 10))
    drain(backlog, names, 15)
    order: list[str] = []
    while len(order) < 1000:
        new, items = batch(count, 10)
        backlog.add(new, items)
        names[id(new)] = "new"
        while new.waiting:
            order += drain(backlog, names, 1)
    assert order.count("new") <= order.count("long") + 2 * QUANTUM // 10


def test_what_an_item_did_not_use_is_given_back() -> None:
    """Both ask for much; one uses next to nothing, and gets more turns for it."""
    backlog, names = filled(modest=batch(2000, 100), greedy=batch(2000, 100))
    order = []
    for _ in range(1000):
        head_of(backlog)
        item = backlog.pop()
        name = names[id(item.flow)]
        order.append(name)
        backlog.settle(item, used_tokens=10 if name == "modest" else 100)
    counts = Counter(order)
    assert counts["modest"] == pytest.approx(10 * counts["greedy"], rel=0.1)


def test_what_an_item_used_beyond_its_cost_is_charged() -> None:
    backlog, names = filled(honest=batch(2000, 100), low=batch(2000, 100))
    order = []
    for _ in range(900):
        item = backlog.pop()
        name = names[id(item.flow)]
        order.append(name)
        backlog.settle(item, used_tokens=100 if name == "honest" else 200)
    counts = Counter(order)
    assert counts["honest"] == pytest.approx(2 * counts["low"], rel=0.1)


def test_settling_takes_nothing_of_what_was_saved_for_a_large_item() -> None:
    """A flow that saves for an item of many quanta is not set back by an earlier item that used a little less."""
    backlog, names = filled(small=batch(10_000, 10), large=batch(10, 1000))
    order = []
    while head_of(backlog) is not None and len(order) < 1000:
        item = backlog.pop()
        order.append(names[id(item.flow)])
        if order[-1] == "large":
            earlier = item
        elif "large" in order:
            backlog.settle(earlier, used_tokens=999)  # as if its results came in small pieces
    assert order.count("large") >= 9


def test_a_batch_cannot_save_up_to_crowd_others_out_for_long() -> None:
    backlog, names = filled(saver=batch(3000, 1000), other=batch(3000, 10))
    taken = []
    while len(taken) < 20:
        item = backlog.pop()
        if names[id(item.flow)] == "saver":
            taken.append(item)
    for item in taken:
        backlog.settle(item, used_tokens=0)
    order = drain(backlog, names, 200)
    assert "other" in order[:20]


def test_settling_an_item_of_a_batch_that_waits_no_more_changes_nothing() -> None:
    backlog, names = filled(gone=batch(1, 10), stays=batch(3, 10))
    item = backlog.pop()
    backlog.settle(item, used_tokens=0)
    assert drain(backlog, names) == ["stays"] * 3


def test_discarding_takes_one_batch_out_and_leaves_the_others() -> None:
    backlog, names = filled(a=batch(30, 10), b=batch(5, 10), c=batch(5, 10, priority=3))
    a = backlog.pop().flow
    assert len(backlog.discard(a)) == 29
    assert backlog.discard(a) == []
    assert drain(backlog, names) == ["b"] * 5 + ["c"] * 5


def test_a_batch_that_was_emptied_may_come_again() -> None:
    flow = Flow(0)
    backlog = Backlog(QUANTUM)
    for _ in range(3):
        items = make_items(2, flow)
        backlog.add(flow, items)
        backlog.add(flow, [])
        assert [backlog.pop(), backlog.pop()] == items
        assert head_of(backlog) is None


def test_counters_say_what_waits() -> None:
    backlog, _ = filled(a=batch(10, 7), b=batch(4, 100, priority=2))
    assert (backlog.items, backlog.tokens) == (14, 470)
    item = backlog.pop()
    assert (backlog.items, backlog.tokens) == (13, 463)
    backlog.discard(item.flow)
    assert (backlog.items, backlog.tokens) == (4, 400)
    while head_of(backlog):
        backlog.pop()
    assert (backlog.items, backlog.tokens) == (0, 0)
