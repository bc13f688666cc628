"""Flows whose items come in windows: what becomes of their accounts, and of everybody else, while they have none."""

from collections import Counter, deque

import pytest
from dispatch_bench import head_of, make_item, make_items
from hypothesis import given, settings
from hypothesis import strategies as st

from app.dispatch.backlog import Backlog
from app.dispatch.item import Flow, Item, Owner

QUANTUM = 100
ONE, OTHER = Owner("one"), Owner("other")


def opened(backlog: Backlog, owner: Owner = ONE, priority: int = 0) -> Flow:
    flow = Flow(priority, owner)
    backlog.open(flow)
    return flow


def send(backlog: Backlog, owner: Owner, count: int, max_tokens: int, priority: int = 0) -> Flow:
    flow = Flow(priority, owner)
    backlog.add(flow, make_items(count, flow, max_tokens=max_tokens))
    return flow


def give(backlog: Backlog, flow: Flow, count: int, max_tokens: int) -> None:
    backlog.add(flow, make_items(count, flow, max_tokens=max_tokens))


@pytest.mark.parametrize("owner", [ONE, OTHER])
def test_an_open_flow_that_is_empty_holds_nobody_up(owner: Owner) -> None:
    backlog = Backlog(QUANTUM)
    opened(backlog, priority=-1)
    flow = opened(backlog)
    give(backlog, flow, 1, 10)
    assert backlog.pop().flow is flow
    assert head_of(backlog) is None
    other = send(backlog, owner, 3, 10, priority=1)
    assert [backlog.pop().flow for _ in range(3)] == [other] * 3
    with pytest.raises(LookupError):
        backlog.pop()


def test_the_turn_of_an_open_flow_that_runs_empty_passes_to_the_next() -> None:
    backlog = Backlog(QUANTUM)
    flow = opened(backlog)
    give(backlog, flow, 2, 10)
    send(backlog, OTHER, 30, 10)
    owners = [backlog.pop().flow.owner for _ in range(4)]
    assert owners == [ONE, ONE, OTHER, OTHER]
    give(backlog, flow, 30, 10)
    owners = [backlog.pop().flow.owner for _ in range(20)]
    assert owners[:8] == [OTHER] * 8, "it comes back behind those who are there"
    assert owners[8:] == [ONE] * 12, "and has what was left of its turn"


def test_an_open_flow_that_used_more_than_it_was_charged_owes_it_after_it_was_empty() -> None:
    backlog = Backlog(QUANTUM)
    flow = opened(backlog)
    send(backlog, OTHER, 10_000, 10)
    taken: Counter[str] = Counter()
    for _ in range(2000):
        if not flow.waiting:
            give(backlog, flow, 1, 10)
        item = backlog.pop()
        used = 400 if item.flow is flow else 10
        taken[item.flow.owner.id] += used
        backlog.settle(item, used_tokens=used)
    assert taken["one"] == pytest.approx(taken["other"], abs=2 * QUANTUM + 400)


def test_an_open_flow_saves_nothing_up_however_often_it_is_empty() -> None:
    backlog = Backlog(QUANTUM)
    flow = opened(backlog)
    send(backlog, OTHER, 10_000, 10)
    for _ in range(200):  # rounds in each of which it uses a tenth of its turn
        give(backlog, flow, 1, 10)
        while flow.waiting:
            backlog.pop()
    give(backlog, flow, 1000, 10)
    order = [backlog.pop().flow.owner for _ in range(60)]
    first = order.index(ONE)
    assert first <= 10
    assert order[first : first + 30].count(ONE) <= 20, "no more than a turn and what was kept of one"


def test_what_it_did_not_use_while_it_is_empty_is_kept_up_to_a_turn() -> None:
    backlog = Backlog(QUANTUM)
    flow = opened(backlog)
    give(backlog, flow, 5, 1000)
    send(backlog, OTHER, 10_000, 10)
    charged = []
    while len(charged) < 5:
        item = backlog.pop()
        if item.flow is flow:
            charged.append(item)
    for item in charged:
        backlog.settle(item, used_tokens=0)
    give(backlog, flow, 1000, 10)
    order = [backlog.pop().flow.owner for _ in range(60)]
    first = order.index(ONE)
    assert order[first : first + 20] == [ONE] * 20
    assert order[first + 20] is OTHER


def test_an_owners_account_is_kept_for_its_open_flow_whatever_else_it_sends() -> None:
    """Debts are not forgotten with the batches of one item that come and go beside the open one."""
    backlog = Backlog(QUANTUM)
    opened(backlog)
    send(backlog, OTHER, 10_000, 10)
    taken: Counter[str] = Counter()
    for _ in range(1000):
        if not backlog.waiting_of(ONE).items:
            send(backlog, ONE, 1, 10)
        item = backlog.pop()
        used = 400 if item.flow.owner is ONE else 10
        taken[item.flow.owner.id] += used
        backlog.settle(item, used_tokens=used)
    assert taken["one"] == pytest.approx(taken["other"], abs=2 * QUANTUM + 400)


def test_a_closed_flow_is_as_any_other() -> None:
    backlog = Backlog(QUANTUM)
    flow, empty = opened(backlog), opened(backlog, OTHER)
    give(backlog, flow, 3, 10)
    for _ in range(2):
        backlog.close(flow)
        backlog.close(empty)
    assert [backlog.pop().flow for _ in range(3)] == [flow] * 3
    assert (head_of(backlog), backlog._levels, backlog.owners) == (None, {}, 0)


def test_a_flow_that_is_opened_twice_is_closed_once() -> None:
    backlog = Backlog(QUANTUM)
    flow = opened(backlog)
    backlog.open(flow)
    backlog.close(flow)
    assert not backlog._levels


@pytest.mark.parametrize("is_held", [False, True])
def test_what_runs_again_is_given_back_to_an_open_flow_that_is_empty(is_held: bool) -> None:
    backlog = Backlog(QUANTUM)
    flow = opened(backlog)
    give(backlog, flow, 8, 10)
    items = [backlog.pop() for _ in range(8)]
    if is_held:
        backlog.hold(flow)
    backlog.put_back(items)
    backlog.release(flow)
    send(backlog, OTHER, 30, 10)
    assert [backlog.pop() for _ in range(8)] == items


# ---------------------------------------------------------------- for any traffic

COST = st.integers(1, 400)
WINDOWS = st.lists(st.lists(COST, min_size=1, max_size=6), min_size=1, max_size=12)


def in_windows(backlog: Backlog, owner: Owner, windows: list[list[int]]) -> tuple[Flow, deque[list[Item]]]:
    flow = opened(backlog, owner)
    return flow, deque([make_item(flow, max_tokens=cost) for cost in costs] for costs in windows)


@settings(max_examples=150)
@given(windows=WINDOWS, theirs=st.lists(COST, min_size=1, max_size=60), weight=st.integers(1, 4), data=st.data())
def test_who_sends_in_windows_never_gets_ahead_of_who_waits(
    windows: list[list[int]], theirs: list[int], weight: int, data: st.DataObject
) -> None:
    """From the first window on and whenever the next one comes: being empty gains nothing over one who is not."""
    backlog = Backlog(QUANTUM)
    flow, coming = in_windows(backlog, Owner("one", weight), windows)
    other = Flow(0, OTHER)
    backlog.add(other, [make_item(other, max_tokens=cost) for cost in theirs])
    got = {flow: 0.0, other: 0.0}
    largest = max(*theirs, *(cost for costs in windows for cost in costs))
    while other.waiting:
        if coming and data.draw(st.booleans()):
            backlog.add(flow, coming.popleft())
        item = backlog.pop()
        got[item.flow] += item.cost / item.flow.owner.weight
        assert got[flow] - got[other] <= 2 * QUANTUM + 2 * largest


@settings(max_examples=150)
@given(windows=WINDOWS, theirs=st.lists(COST, min_size=1, max_size=60), weight=st.integers(1, 4))
def test_who_gets_its_next_window_in_time_loses_nothing(
    windows: list[list[int]], theirs: list[int], weight: int
) -> None:
    """As long as something waits: that it comes in windows makes no difference."""
    backlog = Backlog(QUANTUM)
    flow, coming = in_windows(backlog, Owner("one", weight), windows)
    other = Flow(0, OTHER)
    backlog.add(other, [make_item(other, max_tokens=cost) for cost in theirs])
    got = {flow: 0.0, other: 0.0}
    largest = max(*theirs, *(cost for costs in windows for cost in costs))
    while other.waiting:
        if len(flow.waiting) < 2 and coming:
            backlog.add(flow, coming.popleft())
        if not flow.waiting:
            break
        item = backlog.pop()
        got[item.flow] += item.cost / item.flow.owner.weight
        assert abs(got[flow] - got[other]) <= QUANTUM + 2 * largest
