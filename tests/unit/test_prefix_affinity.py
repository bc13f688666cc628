"""Prompts that begin alike meet on one rank: those of a batch one group after another, and others where theirs is."""

from collections import defaultdict

import pytest
from dispatch_bench import Bench, assert_idle, finish, make_item

from app.dispatch import orders
from app.dispatch.item import Flow, Item
from app.dispatch.orders import COMMON_ITEMS, Together
from app.dispatch.placement import Dispatch
from app.dispatch.prefixes import SIZES, RunningPrefixes, prefixes_of

LONG = SIZES[0] + 100


def prompt(group: int, number: int = 0, size: int = LONG) -> bytes:
    return (b"%d " % group) * size + b"%d" % number


def bench(ranks: int = 2, max_num_seqs: int = 4) -> Bench:
    made = Bench(prefetch=0, dispatch=Dispatch.PREFIX)
    for rank in range(ranks):
        made.ready(rank, max_num_seqs=max_num_seqs)
    return made


def submit(made: Bench, prompts: list[bytes], **fields: int) -> list[Item]:
    flow = Flow(0)
    items = [make_item(flow, owner=made.owner, index=i, prompt=p, **fields) for i, p in enumerate(prompts)]
    made.dispatcher.submit(flow, items)
    return items


def places(made: Bench) -> dict[int, list[int]]:
    """The groups that each rank was given, one after another, as they changed."""
    found: dict[int, list[int]] = defaultdict(list)
    for item, rank in made.owner.started:
        group = item.index % 10
        if found[rank][-1:] != [group]:
            found[rank].append(group)
    return found


def run_one_by_one(made: Bench) -> None:
    while any(made.held.values()):
        for rank, held in made.held.items():
            if held:
                made.answer(rank, next(iter(held)))


def test_each_rank_has_groups_of_its_own_one_after_another() -> None:
    made = bench()
    submit(made, [prompt(index % 10, index) for index in range(200)])  # ten groups, as they come in turn
    run_one_by_one(made)
    found = places(made)
    beginnings = len(found[0]) + len(found[1])
    assert beginnings <= 11, "ten beginnings, and perhaps one of another's in the end"
    assert all(len(set(groups)) == len(groups) for groups in found.values()), "none is begun twice"
    ratio = len([1 for _, rank in made.owner.started if rank]) / 200
    assert 0.4 <= ratio <= 0.6
    assert_idle(made)


def test_a_rank_with_nothing_left_takes_of_the_largest_group() -> None:
    made = bench()
    submit(made, [prompt(1, index) for index in range(40)])
    assert {rank: len(held) for rank, held in made.held.items()} == {0: 4, 1: 4}
    run_one_by_one(made)
    assert_idle(made)


def test_prompts_that_have_nothing_in_common_go_in_turn() -> None:
    made = bench()
    items = submit(made, [prompt(100 + index) for index in range(8)])
    assert [item.rank for item in items] == [0, 1] * 4


def test_a_common_instruction_and_longer_beginnings_below_it() -> None:
    """Those that have more in common are the group."""
    made = bench()
    texts = [prompt(7) + (b"%d" % (index % 2)) * SIZES[1] + b"%d" % index for index in range(40)]
    items = submit(made, texts)
    run_one_by_one(made)
    of_rank = {rank: [item.index % 2 for item, to in made.owner.started if to == rank][:12] for rank in (0, 1)}
    assert {tuple(set(groups)) for groups in of_rank.values()} == {(0,), (1,)}
    assert len(made.owner.results) == len(items)


def test_an_instruction_that_most_of_a_batch_has_in_common_decides_nothing() -> None:
    """Each rank computes it once, and the items keep their order: in turn, and the longest first near the end."""
    made = bench(max_num_seqs=200)
    texts = [prompt(7, index) for index in range(COMMON_ITEMS + 44)]
    flow = Flow(0)
    items = [make_item(flow, owner=made.owner, index=i, prompt=p, max_tokens=1 + i % 100) for i, p in enumerate(texts)]
    made.dispatcher.submit(flow, items)
    lengths = [item.max_tokens for item, _ in made.owner.started]
    assert [rank for _, rank in made.owner.started[:100]] == [0, 1] * 50
    assert min(lengths[:100]) > max(lengths[-100:]), "all of it is near its end"


def test_what_few_have_in_common_keeps_them_together_below_what_most_have() -> None:
    made = bench()
    common = prompt(7)[: SIZES[0]]
    items = submit(made, [common + prompt(index % 10) + b"%d" % index for index in range(400)])
    run_one_by_one(made)
    assert all(len(set(groups)) == len(groups) for groups in places(made).values())
    assert len(made.owner.results) == len(items)


def test_another_batch_finds_its_beginning_where_it_is() -> None:
    made = bench()
    (first,) = submit(made, [prompt(1)])
    (other,) = submit(made, [prompt(2)])
    finish(made)
    assert {first.rank, other.rank} == {0, 1}
    for _ in range(3):
        (again,) = submit(made, [prompt(1, 5)])
        assert again.rank == first.rank
        finish(made)


def test_a_rank_that_holds_much_more_than_another_is_no_home() -> None:
    made = bench(max_num_seqs=64)
    for number in range(40):
        submit(made, [prompt(1, number)])
    held = sorted(len(of_rank) for of_rank in made.held.values())
    assert held[1] - held[0] <= 64 / 8 + 1


def test_what_was_lost_runs_again_and_no_item_twice() -> None:
    made = bench()
    items = submit(made, [prompt(index % 5, index) for index in range(50)])
    made.lose(0)
    made.ready(0, max_num_seqs=4)
    run_one_by_one(made)
    assert all(item in made.owner.results for item in items)
    assert_idle(made)


@pytest.mark.parametrize(
    ("size", "count"), [(10, 0), (SIZES[0] - 1, 0), (SIZES[0], 1), (SIZES[1], 2), (SIZES[-1] * 2, len(SIZES))]
)
def test_beginnings_of_a_prompt(size: int, count: int) -> None:
    text = b"x" * size
    assert len(prefixes_of(text)) == count
    assert prefixes_of(text) == prefixes_of(text + b"y")[:count]
    assert not set(prefixes_of(text)) & set(prefixes_of(b"z" + text[1:]))


@pytest.mark.parametrize("shared", [SIZES[0], SIZES[0] + 1, 3000, SIZES[-1] + 777])
def test_a_prompt_has_in_common_with_one_that_runs_what_it_has_to_the_byte(shared: int) -> None:
    one, other = (b"x" * shared + letter * 20 for letter in (b"a", b"b"))
    running = RunningPrefixes()
    assert running.bytes_of(other, prefixes_of(other)) == 0
    running.add(one, prefixes_of(one))
    assert running.bytes_of(other, prefixes_of(other)) == shared
    assert running.bytes_of(one, prefixes_of(one)) == len(one)
    assert running.bytes_of(one[: SIZES[0]], prefixes_of(one[: SIZES[0]])) == SIZES[0]
    running.add(other, prefixes_of(other))
    running.remove(prefixes_of(other))
    assert running.bytes_of(one, prefixes_of(one)) == shared, "of the latest, while one with its beginning runs"
    running.remove(prefixes_of(one))
    assert len(running) == running.bytes_of(one, prefixes_of(one)) == 0


def test_beginnings_that_nothing_shares_are_forgotten_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "MOST_BEGINNINGS", 10 * len(prefixes_of(prompt(1))))
    flow, owner, together = Flow(0), bench().owner, Together()

    def alone(*groups: int) -> list[Item]:
        together.extend(make_item(flow, owner=owner, index=0, prompt=prompt(group)) for group in groups)
        return together.sort_in()

    assert len(alone(1, 2)) == 2
    for window in range(3, 33, 3):
        assert len(alone(1, window, window + 1, window + 2)) == 3
    assert len(alone(2)) == 1, "it came too long ago"
    assert len(together) == 10, "all of group 1 but the first"
