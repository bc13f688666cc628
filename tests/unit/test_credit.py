"""How much a rank may hold, and which rank gets an item."""

from collections.abc import Sequence

import pytest
from dispatch_bench import facts, make_item

from app.dispatch.credit import Fill, RankCredit
from app.dispatch.item import Flow, Item
from app.dispatch.placement import Dispatch, LeastLoaded, RoundRobin, placement
from app.dispatch.prefixes import SIZES
from engines.contract.protocol import Outcome, Result

FLOW = Flow(0)


def rank_of(
    number: int = 0, *, max_num_seqs: int = 4, prefetch: int | None = 0, fill: Fill | None = None, **of_facts: int
) -> RankCredit:
    return RankCredit(number, 1, facts(max_num_seqs, **of_facts), prefetch, fill or Fill())


def give(credit: RankCredit, attempt: int, **fields: int) -> Item:
    item = make_item(FLOW, **fields)
    item.attempt = attempt
    credit.take(item)
    return item


@pytest.mark.parametrize(
    ("max_num_seqs", "prefetch", "capacity"),
    [(256, None, 512), (4, None, 12), (256, 0, 256), (4, 3, 7)],
)
def test_a_rank_holds_what_it_runs_and_a_prefetch(max_num_seqs: int, prefetch: int | None, capacity: int) -> None:
    credit = rank_of(max_num_seqs=max_num_seqs, prefetch=prefetch)
    assert (credit.capacity, credit.credit) == (capacity, capacity)


def test_a_rank_holds_in_advance_as_many_as_lately_ended_at_once() -> None:
    credit = rank_of(max_num_seqs=256, prefetch=None)
    for _ in range(400):
        credit.observe_burst(2)
    assert credit.capacity == 256 + 8
    credit.observe_burst(100)
    assert credit.capacity == 256 + 100
    credit.observe_burst(1)
    assert 256 + 90 < credit.capacity < 256 + 100
    credit.observe_burst(1000)
    assert credit.capacity == 512


def test_a_prefetch_that_was_set_stays() -> None:
    credit = rank_of(max_num_seqs=256, prefetch=3)
    credit.observe_burst(100)
    assert credit.capacity == 259


def test_credit_is_counted_in_sequences() -> None:
    credit = rank_of(max_num_seqs=4)
    give(credit, 1, n=3)
    assert credit.credit == 1
    assert credit.fits(make_item(FLOW))
    assert not credit.fits(make_item(FLOW, n=2))


def test_all_of_it_comes_back() -> None:
    credit = rank_of(max_num_seqs=4, kv_cache_tokens=100)
    items = [give(credit, attempt, max_tokens=attempt) for attempt in range(1, 5)]
    assert not credit.credit
    assert [credit.give_back(attempt) for attempt in (3, 1, 4, 2)] == [items[2], items[0], items[3], items[1]]
    assert (credit.credit, credit.outstanding_tokens, credit.running) == (4, 0, {})
    assert credit.fits(make_item(FLOW, max_tokens=100))


def test_an_attempt_that_the_rank_does_not_hold_gives_nothing_back() -> None:
    credit = rank_of()
    give(credit, 1)
    assert credit.give_back(2) is None
    credit.give_back(1)
    assert credit.give_back(1) is None
    assert credit.credit == 4


def test_an_item_larger_than_the_rank_runs_alone() -> None:
    credit = rank_of(max_num_seqs=4)
    large = make_item(FLOW, n=100)
    give(credit, 1)
    assert not credit.fits(large)
    credit.give_back(1)
    assert credit.fits(large)
    large.attempt = 2
    credit.take(large)
    assert credit.credit == 0
    assert not credit.fits(make_item(FLOW))


def test_an_item_larger_than_the_kv_cache_runs_alone() -> None:
    credit = rank_of(kv_cache_tokens=100)
    assert credit.fits(make_item(FLOW, max_tokens=1000))
    give(credit, 1, max_tokens=1000)
    assert not credit.fits(make_item(FLOW, max_tokens=1))


def test_the_kv_cache_bounds_what_a_rank_holds() -> None:
    credit = rank_of(max_num_seqs=100, kv_cache_tokens=100)
    give(credit, 1, prompt_tokens=20, max_tokens=40)
    assert credit.fits(make_item(FLOW, prompt_tokens=20, max_tokens=20))
    assert not credit.fits(make_item(FLOW, prompt_tokens=20, max_tokens=21))


def test_what_is_held_in_advance_takes_no_room_in_the_kv_cache_yet() -> None:
    """A cache that just holds all sequences is no reason to let a rank run dry when they end together."""
    credit = rank_of(max_num_seqs=16, kv_cache_tokens=1600, prefetch=16)
    for attempt in range(32):
        item = make_item(FLOW, prompt_tokens=50, max_tokens=50)
        assert credit.fits(item), attempt
        item.attempt = attempt
        credit.take(item)
    assert not credit.fits(make_item(FLOW, prompt_tokens=50, max_tokens=50))


def test_what_is_held_in_advance_is_still_bounded_by_the_kv_cache() -> None:
    """Larger ones that will run in the place of smaller ones must have room then."""
    credit = rank_of(max_num_seqs=16, kv_cache_tokens=1600, prefetch=16)
    for attempt in range(16):
        give(credit, attempt, prompt_tokens=50, max_tokens=45)
    assert credit.fits(make_item(FLOW, prompt_tokens=50, max_tokens=100))
    assert not credit.fits(make_item(FLOW, prompt_tokens=50, max_tokens=1000))


def test_items_that_use_little_of_their_max_tokens_are_expected_to_go_on_so() -> None:
    fill = Fill()
    credit = rank_of(max_num_seqs=100, kv_cache_tokens=1000, fill=fill)
    item = make_item(FLOW, prompt_tokens=10, max_tokens=1000)
    give(credit, 1, prompt_tokens=10, max_tokens=100)
    assert not credit.fits(item)
    for _ in range(300):
        fill.observe(item, Result(0, Outcome.OK, prompt_tokens=10, completion_tokens=50))
    assert fill.expected_tokens(item) == pytest.approx(10 + 50, abs=5)
    assert credit.fits(item)


def test_what_an_item_was_taken_for_is_what_it_gives_back() -> None:
    """The estimate may have changed meanwhile; the account must come out even."""
    fill = Fill()
    credit = rank_of(max_num_seqs=100, kv_cache_tokens=100, fill=fill)
    item = give(credit, 1, max_tokens=100)
    for _ in range(100):
        fill.observe(item, Result(0, Outcome.OK, completion_tokens=1))
    give(credit, 2, max_tokens=10)
    credit.give_back(1)
    credit.give_back(2)
    give(credit, 3, max_tokens=1)
    assert credit.fits(make_item(FLOW, max_tokens=99))


def test_only_answers_teach_how_much_is_used() -> None:
    fill = Fill()
    item = make_item(FLOW, max_tokens=100)
    for outcome in (Outcome.ERROR, Outcome.ABORTED):
        fill.observe(item, Result(0, outcome, completion_tokens=1))
    fill.observe(item, Result(0, Outcome.OK, completion_tokens=0))
    fill.observe(make_item(FLOW, max_tokens=0), Result(0, Outcome.OK, completion_tokens=1))
    assert fill.expected_tokens(item) == 100


def test_no_sequence_is_expected_to_outgrow_the_context() -> None:
    """A client that asks for a million tokens gets what the context has left; others need not wait for it."""
    credit = rank_of(max_num_seqs=100, kv_cache_tokens=1000, max_model_len=100)
    give(credit, 1, max_tokens=1_000_000, n=2)
    assert credit.fits(make_item(FLOW, max_tokens=1_000_000, n=8))
    assert not credit.fits(make_item(FLOW, max_tokens=1_000_000, n=9))


# ---------------------------------------------------------------- placement


def choices(chooser: RoundRobin | LeastLoaded, ranks: Sequence[RankCredit], count: int) -> list[int | None]:
    chosen: list[int | None] = []
    for attempt in range(count):
        item = make_item(FLOW)
        item.attempt = attempt
        rank = chooser.choose(ranks, item)
        if rank is not None:
            rank.take(item)
        chosen.append(rank.rank if rank else None)
    return chosen


def test_round_robin_goes_by_the_ranks_numbers() -> None:
    ranks = [rank_of(number) for number in (0, 1, 4)]
    assert choices(RoundRobin(), ranks, 7) == [0, 1, 4, 0, 1, 4, 0]


def test_round_robin_passes_over_ranks_that_are_full() -> None:
    ranks = [rank_of(0, max_num_seqs=1), rank_of(1, max_num_seqs=3), rank_of(2, max_num_seqs=2)]
    assert choices(RoundRobin(), ranks, 7) == [0, 1, 2, 1, 2, 1, None]


def test_round_robin_goes_on_where_it_was_when_ranks_come_and_go() -> None:
    ranks = [rank_of(number) for number in range(3)]
    robin = RoundRobin()
    assert choices(robin, ranks, 2) == [0, 1]
    assert choices(robin, ranks[:1], 1) == [0]
    assert choices(robin, ranks[1:], 2) == [1, 2]
    assert choices(robin, [], 1) == [None]


def test_the_least_loaded_rank_is_the_one_with_the_fewest_tokens() -> None:
    ranks = [rank_of(number) for number in range(3)]
    give(ranks[0], 100, max_tokens=15)
    give(ranks[2], 101, max_tokens=5)
    assert choices(LeastLoaded(), ranks, 5) == [1, 2, 1, 0, 2]


def test_the_least_loaded_rank_must_have_room() -> None:
    ranks = [rank_of(0, max_num_seqs=1), rank_of(1)]
    give(ranks[0], 100, max_tokens=1)
    give(ranks[1], 101, max_tokens=1000)
    assert choices(LeastLoaded(), ranks, 4) == [1, 1, 1, None]


def test_dispatch_names_the_placement() -> None:
    assert isinstance(placement(Dispatch.ROUND_ROBIN), RoundRobin)
    assert isinstance(placement(Dispatch.LEAST_LOADED), LeastLoaded)


@pytest.mark.parametrize(("caches_prefixes", "fit"), [(True, 6), (False, 2)])
def test_what_prompts_have_in_common_takes_room_once_where_it_is_cached(caches_prefixes: bool, fit: int) -> None:
    """1,000 tokens of the first prompt, and of each other one the 250 behind three quarters that all share."""
    beginning, own = b"x" * (3 * SIZES[1]), SIZES[1]
    credit = rank_of(max_num_seqs=64, kv_cache_tokens=2500, caches_prefixes=caches_prefixes)
    items = [
        make_item(FLOW, prompt=beginning + b"%d" % number * own, prompt_tokens=1000, max_tokens=1)
        for number in range(10)
    ]
    taken = []
    for number, item in enumerate(items):
        if not credit.fits(item):
            break
        item.attempt = number
        credit.take(item)
        taken.append(item)
    assert len(taken) == fit
    for item in taken:
        credit.give_back(item.attempt)
    assert credit._kv_expected == 0 and not len(credit._beginnings)


@pytest.mark.parametrize(("block", "fit"), [(1, 9), (16, 9), (128, 6), (256, 5)])
def test_a_sequence_takes_whole_blocks_of_the_kv_cache(block: int, fit: int) -> None:
    """Of 2,560 tokens, 264 each: what is half used is taken all the same, and vLLM would preempt what does not fit."""
    credit = rank_of(max_num_seqs=64, kv_cache_tokens=2560, kv_block_tokens=block)
    items = [make_item(FLOW, prompt_tokens=200, max_tokens=64) for _ in range(10)]
    for number, item in enumerate(items):
        if not credit.fits(item):
            break
        item.attempt = number
        credit.take(item)
    assert len(credit.running) == fit
    credit.give_back_all()
    assert credit._kv_expected == 0


def test_answers_of_one_prompt_take_whole_blocks_each() -> None:
    credit = rank_of(max_num_seqs=64, kv_cache_tokens=2560, kv_block_tokens=128)
    give(credit, 1, prompt_tokens=10, max_tokens=10, n=4)
    assert credit._kv_expected == 4 * 128
    give(credit, 2, prompt_tokens=10, max_tokens=10, n=0)
    assert credit._kv_expected == 4 * 128, "an answer that is no sequence takes nothing"
