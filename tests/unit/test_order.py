"""The order in which a batch's items leave: as they came, the longest first near the end, and by lengths that are
learned meanwhile."""

import random

import pytest
from dispatch_bench import Bench, make_item

from app.batches.order_gain import OrderGain
from app.dispatch.item import Flow, Item
from app.dispatch.lengths import ENOUGH, MOST_ANSWERS, Lengths
from app.dispatch.queue import NEAR_END, ItemQueue
from engines.contract.protocol import Outcome, Result

SLOTS = 4


def always(_: float) -> bool:
    return True


def items_of(*lengths: int, prompt: bytes = b"p") -> list[Item]:
    flow = Flow(0)
    return [make_item(flow, index=index, max_tokens=length, prompt=prompt) for index, length in enumerate(lengths)]


def queue_of(*lengths: int) -> ItemQueue:
    queue = ItemQueue()
    queue.extend(items_of(*lengths))
    return queue


def drained(queue: ItemQueue) -> list[int]:
    """The indexes, as the items leave."""
    order = []
    while queue:
        first = queue.first()
        assert queue.first() is first and queue.pop() is first
        order.append(first.index)
    assert queue.tokens == 0 and list(queue) == []
    return order


def test_items_leave_as_they_came_while_the_end_is_far() -> None:
    queue = queue_of(*[10, 80] * 40)
    queue.look_for_end(SLOTS, always)
    assert not queue.is_longest_first
    assert drained(queue) == list(range(80))


def test_near_the_end_the_longest_leave_first_and_equal_ones_as_they_came() -> None:
    queue = queue_of(10, 80, 10, 300, 80, 15)
    queue.look_for_end(SLOTS, always)
    assert drained(queue) == [3, 1, 4, 5, 0, 2]


@pytest.mark.parametrize(("count", "is_near"), [(NEAR_END * SLOTS - 1, True), (NEAR_END * SLOTS, False)])
def test_the_end_is_near_when_the_rest_is_a_few_times_the_longest(count: int, is_near: bool) -> None:
    queue = queue_of(*[100] * count, 99)
    queue.look_for_end(SLOTS, always)
    assert queue.is_longest_first is is_near


def test_without_time_for_all_those_that_came_first_are_done() -> None:
    asked = []
    queue = queue_of(10, 80, 10)
    queue.look_for_end(SLOTS, lambda steps: bool(asked.append(steps)))
    assert asked == [100 / SLOTS + 80]
    assert drained(queue) == [0, 1, 2]


def test_items_of_one_length_have_no_other_order() -> None:
    queue = queue_of(10, 10, 10)
    queue.look_for_end(SLOTS, always)
    assert not queue.is_longest_first


def test_what_comes_later_finds_its_place_and_what_comes_back_is_the_next() -> None:
    queue = queue_of(10, 80)
    queue.look_for_end(SLOTS, always)
    back = queue.pop()
    queue.extend(items_of(300, 5))
    queue.put_first(back)
    assert [item.max_tokens for item in queue] == [80, 300, 10, 5]
    assert [queue.pop().max_tokens for _ in range(4)] == [80, 300, 10, 5]


def test_answers_to_prompts_that_begin_or_end_alike_tell_the_lengths_of_others() -> None:
    queue = ItemQueue()
    flow = Flow(0)
    prompts = [b"Translate: %d" % index for index in range(3)] + [b"%d. Write an epic about this number" % 7] * 3
    queue.extend([make_item(flow, index=index, max_tokens=1000, prompt=p) for index, p in enumerate(prompts)])
    for _ in range(ENOUGH):
        queue.lengths.observe(b"Translate: 99", 3)
        queue.lengths.observe(b"8888. Write an epic about this number", 900)
    queue.look_for_end(SLOTS, always)
    assert drained(queue) == [3, 4, 5, 0, 1, 2]


def test_lengths_that_are_learned_while_items_wait_count_when_they_leave() -> None:
    queue = ItemQueue()
    flow = Flow(0)
    lengths = {b"s" * 20: 2, b"l" * 20: 500}
    prompts = [*lengths] * 3
    queue.extend([make_item(flow, index=i, max_tokens=1000 - (i == 0), prompt=p) for i, p in enumerate(prompts)])
    queue.look_for_end(SLOTS, always)
    for prompt in prompts * ENOUGH:
        queue.lengths.observe(prompt, lengths[prompt])
    assert drained(queue) == [1, 3, 5, 0, 2, 4]


def test_what_is_kept_of_lengths_is_bounded() -> None:
    lengths = Lengths()
    for number in range(MOST_ANSWERS * 2):
        lengths.observe(b"%d" % number * 100, number)
    assert len(lengths._known) < 10_000
    assert lengths.expected(b"never seen", 77) == 77


def simulate(lengths: list[int], ranks: int = 2, sequences: int = 8, *, in_order: bool) -> tuple[int, Bench]:
    """Steps until all have ended: each rank makes a token of each of its sequences, its first ones, a step."""
    bench = Bench(prefetch=None, quantum=4096)
    for rank in range(ranks):
        bench.ready(rank, max_num_seqs=sequences)
    flow = Flow(0)
    items = [make_item(flow, owner=bench.owner, index=index, max_tokens=n) for index, n in enumerate(lengths)]
    if in_order:
        bench.dispatcher.backlog.open(flow)  # it might be that more comes
    bench.dispatcher.submit(flow, items)
    left = dict(zip(items, lengths, strict=True))
    steps = 0
    while any(bench.held.values()):
        steps += 1
        for rank, held in bench.held.items():
            by_attempt = {item.attempt: item for item in flow.running if item.rank == rank}
            ended = []
            for attempt in list(held)[:sequences]:
                item = by_attempt[attempt]
                left[item] -= 1
                if not left[item]:
                    ended.append(attempt)
            if ended:
                tokens = {attempt: lengths[by_attempt[attempt].index] for attempt in ended}
                bench.answer(rank, *ended, make=lambda a, t=tokens: Result(a, Outcome.OK, completion_tokens=t[a]))
    assert len(bench.owner.results) == len(lengths)
    return steps, bench


def test_a_batch_of_many_lengths_ends_sooner() -> None:
    """And near the least that can be: all sequences full until the end."""
    chance = random.Random(7)
    lengths = [max(1, min(200, int(chance.lognormvariate(2.5, 1.2)))) for _ in range(300)]
    least = max(*lengths, sum(lengths) / 16)
    ordered, _ = simulate(lengths, in_order=False)
    arrived, _ = simulate(lengths, in_order=True)
    assert ordered < 1.15 * least < arrived


def test_near_the_end_no_rank_holds_in_advance_what_others_could_run() -> None:
    bench = Bench(prefetch=None)
    for rank in range(2):
        bench.ready(rank, max_num_seqs=10)
    bench.submit(26)
    assert {rank: len(held) for rank, held in bench.held.items()} == {0: 11, 1: 11}


def test_a_window_is_not_the_end() -> None:
    bench = Bench(prefetch=None)
    for rank in range(2):
        bench.ready(rank, max_num_seqs=10)
    flow = Flow(0)
    bench.dispatcher.backlog.open(flow)
    bench.dispatcher.submit(flow, [make_item(flow, owner=bench.owner, index=index) for index in range(26)])
    assert {rank: len(held) for rank, held in bench.held.items()} == {0: 13, 1: 13}


def test_the_order_of_arrival_is_played_against_the_one_that_was() -> None:
    gain = OrderGain()
    tokens = [10, 10, 10, 10, 40]
    for index in (4, 0, 1, 2, 3):
        gain.began(index, 100.0)
        gain.ended(index, tokens[index])
    gain.ended(77, 1000)  # it left before the end was near
    assert gain.predicted_s(2, 104.0) == pytest.approx(4 * (60 / 40 - 1))
    assert gain.predicted_s(5, 104.0) is None, "all ran at once"
    assert OrderGain().predicted_s(2, 104.0) is None
