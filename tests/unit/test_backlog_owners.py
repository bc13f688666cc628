"""Fair shares between those who send batches, whatever they send: by hand, and for any traffic."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import pytest
from dispatch_bench import head_of, make_item, make_items
from hypothesis import given, settings
from hypothesis import strategies as st

from app.dispatch.backlog import Backlog
from app.dispatch.item import Flow, Item, Owner
from app.dispatch.turns import MOST_SAVED_QUANTA

QUANTUM = 100
ONE, OTHER = Owner("one"), Owner("other")


def send(backlog: Backlog, owner: Owner, count: int, max_tokens: int, priority: int = 0) -> Flow:
    flow = Flow(priority, owner)
    backlog.add(flow, make_items(count, flow, max_tokens=max_tokens))
    return flow


def leaving(backlog: Backlog) -> Iterator[Item]:
    while head_of(backlog) is not None:
        yield backlog.pop()


def tokens_by_owner(items: Iterator[Item]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for item in items:
        counts[item.flow.owner.id] += item.cost
    return counts


# ---------------------------------------------------------------- by hand


def test_a_hundred_batches_get_no_more_than_one() -> None:
    backlog = Backlog(QUANTUM)
    for _ in range(100):
        send(backlog, ONE, 100, 10)
    send(backlog, OTHER, 10_000, 10)
    counts = tokens_by_owner(islice(leaving(backlog), 10_000))
    assert counts["one"] == pytest.approx(counts["other"], abs=2 * QUANTUM)


@pytest.mark.parametrize("large", [40, 350])
def test_owners_of_unequal_items_get_equal_tokens(large: int) -> None:
    """Larger than the quantum, too; and in batches of one item, whose accounts never carry anything over."""
    backlog = Backlog(QUANTUM)
    for _ in range(5000):
        send(backlog, ONE, 1, large)
    send(backlog, OTHER, 50_000, 5)
    counts = tokens_by_owner(islice(leaving(backlog), 10_000))
    assert counts["one"] == pytest.approx(counts["other"], abs=2 * QUANTUM + large)


def test_an_owners_part_is_shared_between_its_batches() -> None:
    backlog = Backlog(QUANTUM)
    first, second = send(backlog, ONE, 1000, 10), send(backlog, ONE, 1000, 10)
    third = send(backlog, OTHER, 1000, 10)
    counts = Counter(item.flow for item in islice(leaving(backlog), 1200))
    assert counts[first] == pytest.approx(300, abs=20)
    assert counts[second] == pytest.approx(300, abs=20)
    assert counts[third] == pytest.approx(600, abs=20)


def test_a_weight_of_three_gets_three_times_the_tokens() -> None:
    backlog = Backlog(QUANTUM)
    send(backlog, Owner("heavy", weight=3), 10_000, 10)
    send(backlog, OTHER, 10_000, 25)
    counts = tokens_by_owner(islice(leaving(backlog), 4000))
    assert counts["heavy"] == pytest.approx(3 * counts["other"], abs=8 * QUANTUM)


def test_priorities_stand_above_shares() -> None:
    backlog = Backlog(QUANTUM)
    send(backlog, ONE, 50, 10, priority=1)
    send(backlog, OTHER, 50, 10)
    send(backlog, ONE, 50, 10)
    order = [(item.flow.priority, item.flow.owner.id) for item in leaving(backlog)]
    assert [priority for priority, _ in order] == [0] * 100 + [1] * 50
    assert Counter(owner for _, owner in order[:40]) == {"one": 20, "other": 20}


def test_a_new_owner_waits_for_no_more_than_a_turn_of_each_other() -> None:
    backlog = Backlog(QUANTUM)
    for _ in range(50):
        send(backlog, ONE, 100, 10)
    list(islice(leaving(backlog), 3))
    send(backlog, OTHER, 1, 10)
    order = [item.flow.owner.id for item in islice(leaving(backlog), 8)]
    assert order == ["one"] * 7 + ["other"]


def test_an_account_of_many_quanta_does_not_take_as_many_steps() -> None:
    backlog = Backlog(1)
    huge, less = Flow(0, ONE), Flow(0, Owner("less", weight=2))
    backlog.add(huge, [make_item(huge, max_tokens=10**15)])
    backlog.add(less, [make_item(less, max_tokens=2 * 10**15 - 2)])
    assert [item.flow for item in leaving(backlog)] == [less, huge]


def test_what_an_owners_batches_did_not_use_is_given_back_to_the_owner() -> None:
    """In batches of one item: the batch is done when its result comes, and its owner still has others."""
    backlog = Backlog(QUANTUM)
    for _ in range(2000):
        send(backlog, ONE, 1, 100)
        send(backlog, OTHER, 1, 100)
    counts: Counter[str] = Counter()
    for item in islice(leaving(backlog), 1000):
        counts[item.flow.owner.id] += 1
        backlog.settle(item, used_tokens=10 if item.flow.owner is ONE else 100)
    assert counts["one"] == pytest.approx(10 * counts["other"], rel=0.1)


def test_an_owner_that_comes_back_brings_no_credit() -> None:
    """What it had charged and not used went with its account when nothing of it waited any more."""
    backlog = Backlog(QUANTUM)
    send(backlog, OTHER, 10_000, 10)
    send(backlog, ONE, 20, 1000)
    charged = [item for item in islice(leaving(backlog), 3000) if item.flow.owner is ONE]
    assert len(charged) == 20
    send(backlog, ONE, 1000, 10)
    for item in charged:
        backlog.settle(item, used_tokens=0)
    order = [item.flow.owner.id for item in islice(leaving(backlog), 60)]
    assert Counter(order)["one"] <= 30


def test_an_owner_cannot_save_up_to_crowd_others_out_for_long() -> None:
    backlog = Backlog(QUANTUM)
    for _ in range(3000):
        send(backlog, ONE, 1, 1000)
    send(backlog, OTHER, 30_000, 10)
    charged = [item for item in islice(leaving(backlog), 5000) if item.flow.owner is ONE]
    for item in charged:
        backlog.settle(item, used_tokens=0)
    counts = tokens_by_owner(islice(leaving(backlog), 500))
    assert counts["one"] - counts["other"] <= (MOST_SAVED_QUANTA + 2) * QUANTUM + 1000


def test_what_an_owner_has_waiting_is_counted_over_all_its_batches() -> None:
    backlog = Backlog(QUANTUM)
    flow = send(backlog, ONE, 3, 10)
    send(backlog, ONE, 2, 5, priority=7)
    send(backlog, OTHER, 1, 1)
    waiting = backlog.waiting_of(ONE)
    assert (waiting.items, waiting.tokens, backlog.owners) == (5, 40, 2)
    backlog.discard(flow)
    assert (backlog.waiting_of(ONE).items, backlog.waiting_of(OTHER).items) == (2, 1)
    list(leaving(backlog))
    assert (backlog.waiting_of(ONE).items, backlog.owners) == (0, 0)


# ---------------------------------------------------------------- for any traffic

COST = st.integers(1, 400)
BATCHES = st.lists(st.lists(COST, min_size=1, max_size=6), min_size=1, max_size=8)


@settings(max_examples=150)
@given(ours=BATCHES, theirs=BATCHES, weight=st.integers(1, 4))
def test_while_two_owners_wait_neither_gets_ahead(ours: list[list[int]], theirs: list[list[int]], weight: int) -> None:
    """At every moment of the time that both have something waiting, however it is cut into batches and items."""
    backlog = Backlog(QUANTUM)
    owners = (Owner("one", weight), OTHER)
    for owner, batches in zip(owners, (ours, theirs), strict=True):
        for costs in batches:
            flow = Flow(0, owner)
            backlog.add(flow, [make_item(flow, max_tokens=cost) for cost in costs])
    got = {owner.id: 0.0 for owner in owners}
    largest = max(cost for batches in (ours, theirs) for costs in batches for cost in costs)
    while all(backlog.waiting_of(owner).items for owner in owners):
        item = backlog.pop()
        got[item.flow.owner.id] += item.cost / item.flow.owner.weight
        assert abs(got["one"] - got["other"]) <= QUANTUM + 2 * largest


@settings(max_examples=150)
@given(
    events=st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.sampled_from("abc"), st.integers(0, 2), st.lists(COST, min_size=1)),
            st.tuples(st.just("pop"), st.integers(1, 5)),
            st.tuples(st.just("discard"), st.integers(0, 30)),
            st.tuples(st.just("settle"), st.integers(0, 30), st.integers(0, 500)),
        ),
        max_size=40,
    )
)
def test_nothing_is_lost_or_overtakes_whatever_comes_and_goes(events: list[tuple[object, ...]]) -> None:
    backlog = Backlog(QUANTUM)
    flows: list[Flow] = []
    queued: dict[Flow, list[Item]] = {}
    popped: list[Item] = []
    for event in events:
        match event:
            case ("send", str(owner), int(priority), list(costs)):
                flow = Flow(priority, Owner(owner))
                flows.append(flow)
                queued[flow] = [make_item(flow, max_tokens=cost) for cost in costs]
                backlog.add(flow, list(queued[flow]))
            case ("pop", int(count)):
                for _ in range(min(count, backlog.items)):
                    head = head_of(backlog)
                    item = backlog.pop()
                    assert item is head and queued[item.flow].pop(0) is item
                    assert all(item.flow.priority <= other.priority for other, items in queued.items() if items)
                    popped.append(item)
            case ("discard", int(index)) if flows:
                flow = flows[index % len(flows)]
                assert backlog.discard(flow) == queued[flow]
                queued[flow] = []
            case ("settle", int(index), int(used)) if popped:
                backlog.settle(popped[index % len(popped)], used)
        left = [item for items in queued.values() for item in items]
        assert (backlog.items, backlog.tokens) == (len(left), sum(item.cost for item in left))
        for owner in "abc":
            of_owner = [item for item in left if item.flow.owner.id == owner]
            waiting = backlog.waiting_of(Owner(owner))
            assert (waiting.items, waiting.tokens) == (len(of_owner), sum(item.cost for item in of_owner))
    assert len(list(leaving(backlog))) == sum(len(items) for items in queued.values())
