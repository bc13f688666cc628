"""What is kept for items that somebody waits for: a few sequences, while there are such items, and no more. And how
batches begin beside them."""

import time
from collections.abc import Callable
from itertools import pairwise

import pytest
from dispatch_bench import Bench, Clock, make_item, make_items, turn

from app.dispatch.item import Flow, Owner
from app.dispatch.lanes import LINGER_S
from app.dispatch.refill import PERIOD_S, PROMPT_TOKENS, SMALLEST_PART

KEPT = 2  # of the eight sequences of each rank


@pytest.fixture
def clock() -> Clock:
    return Clock()


def bench(clock: Callable[[], float] = time.monotonic, *, prefetch: int = 4) -> Bench:
    made = Bench(prefetch=prefetch, online_share=0.2, clock=clock)
    made.ready(0, max_num_seqs=8)
    return made


def wait(bench: Bench, clock: Clock, times: int = 1) -> None:
    """Until what is due later has been done, so many times."""
    for _ in range(times):
        turn(bench, clock)


def come(bench: Bench, owner: str = "chats", n: int = 1) -> Flow:
    """An online item of somebody's."""
    flow = Flow(0, Owner(owner), is_online=True)
    bench.dispatcher.submit(flow, [make_item(flow, owner=bench.owner, n=n)])
    return flow


def is_running(flow: Flow) -> bool:
    return bool(flow.running)


def test_without_online_items_a_batch_has_all_there_is() -> None:
    made = bench()
    made.submit(100)
    assert len(made.held[0]) == 8 + 4


def test_an_online_item_goes_to_its_rank_at_once_past_a_batch_that_fills_it() -> None:
    made = bench()
    made.submit(100)
    assert [is_running(come(made)) for _ in range(KEPT)] == [True, True]


def test_beyond_what_is_kept_online_items_have_their_turns() -> None:
    """They cannot crowd a batch out."""
    made = bench()
    batch = make_items(100, Flow(0, Owner("batches")), owner=made.owner)
    made.dispatcher.submit(batch[0].flow, batch)
    flows = [come(made) for _ in range(40)]
    assert sum(map(is_running, flows)) == KEPT
    for _ in range(30):
        made.answer(0, next(iter(made.held[0])))
    ended = [item for item in made.owner.results if not item.flow.is_online]
    assert 10 <= len(ended) <= 25
    assert len(made.held[0]) <= 8 + KEPT


def test_room_is_kept_while_there_are_online_items_and_for_a_while_after_the_last(clock: Clock) -> None:
    made = bench(clock)
    chat = come(made)
    made.submit(100)
    wait(made, clock, times=8)
    assert len(made.held[0]) == 8 - (KEPT - 1)  # one of those that are kept is in use
    (attempt,) = [item.attempt for item in chat.running]
    made.answer(0, attempt)
    assert len(made.held[0]) == 8 - KEPT
    assert is_running(come(made))
    clock.now += LINGER_S - 1
    made.answer(0, next(iter(made.held[0])))
    assert len(made.held[0]) < 8 + 4
    clock.now += LINGER_S
    made.answer(0, next(iter(made.held[0])))
    assert len(made.held[0]) == 8 + 4


def test_owners_take_turns_for_what_is_kept() -> None:
    made = bench(prefetch=0)
    made.submit(100)
    many = [come(made, "many") for _ in range(10)]
    few = come(made, "few")
    assert sum(map(is_running, many)) == KEPT
    made.answer(0, *[item.attempt for flow in many[:KEPT] for item in flow.running])
    assert is_running(few)  # and one of the others
    assert sum(map(is_running, many)) == KEPT - 1


def test_one_that_is_larger_than_what_is_kept_has_it_alone() -> None:
    made = bench()
    made.submit(100)
    large, small = come(made, n=6), come(made)
    assert (is_running(large), is_running(small)) == (True, False)


def test_one_that_is_given_up_is_forgotten() -> None:
    made = bench()
    made.submit(100)
    flows = [come(made) for _ in range(5)]
    for flow in reversed(flows):
        made.dispatcher.cancel(flow)
    assert made.dispatcher.backlog.online_head() is None


def long_prompts(bench: Bench, tokens: int) -> None:
    """A batch of such."""
    flow = Flow(0, Owner("batches"))
    items = make_items(100, flow, owner=bench.owner)
    for item in items:
        item.prompt_tokens = tokens
    bench.dispatcher.submit(flow, items)


def test_beside_online_items_a_batch_begins_in_groups(clock: Clock) -> None:
    made = Bench(online_share=0.2, clock=clock)
    made.ready(0, max_num_seqs=64)
    come(made)
    made.submit(100)
    sizes = [len(made.held[0])]
    while made.due:
        wait(made, clock)
        sizes.append(len(made.held[0]))
    steps = [after - before for before, after in pairwise([1, *sizes])]
    assert set(steps[:-2]) == {64 // SMALLEST_PART}
    assert sizes[-1] == 64 - 12  # what is kept, and not in use


def test_without_online_items_a_batch_begins_at_once() -> None:
    made = Bench(online_share=0.2)
    made.ready(0, max_num_seqs=64)
    made.submit(100)
    assert (len(made.held[0]), made.due) == (64, [])


def test_groups_are_as_large_as_what_ends(clock: Clock) -> None:
    """Short items do not run at the pace of small groups."""
    made = Bench(online_share=0.2, clock=clock)
    made.ready(0, max_num_seqs=64)
    made.submit(10_000)
    for _ in range(100):  # all of it every 50 ms
        clock.now += PERIOD_S
        made.answer(0)
    come(made)
    taken = []
    for _ in range(10):
        clock.now += PERIOD_S
        made.answer(0)
        taken.append(len(made.held[0]))
    assert min(taken) >= 40


def test_long_prompts_make_groups_small(clock: Clock) -> None:
    made = Bench(online_share=0.2, clock=clock)
    made.ready(0, max_num_seqs=64)
    come(made)
    long_prompts(made, 4 * PROMPT_TOKENS)
    assert len(made.held[0]) == 1 + 1
    wait(made, clock)
    assert len(made.held[0]) == 1 + 2


def test_what_waits_for_the_next_group_is_looked_after_once(clock: Clock) -> None:
    made = bench(clock)
    come(made)
    for _ in range(10):
        made.submit(10)
    assert len(made.due) == 1


def test_online_items_beyond_what_is_kept_are_in_no_group(clock: Clock) -> None:
    made = Bench(online_share=0.2, clock=clock)
    made.ready(0, max_num_seqs=64)
    come(made)
    made.submit(64 // SMALLEST_PART)  # all of a group
    assert all(is_running(come(made)) for _ in range(40))
