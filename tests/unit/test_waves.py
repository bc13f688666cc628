"""When the ranks of a lock-step group are refilled together, and what is never held for that."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from dispatch_bench import Bench, Clock, make_item, make_items, turn

from app.dispatch.item import Flow, Owner
from app.dispatch.waves import LONGEST_HOLD_S, MOST_ON_ONE, PART

SEQUENCES = 64  # of each of the two ranks
DUE = math.ceil(2 * SEQUENCES * PART)  # free sequences of the group
LARGE = 10_000  # items: no end in sight


@pytest.fixture
def clock() -> Clock:
    return Clock()


def group(clock: Callable[[], float], *, items: int = LARGE, device: str = "cuda", **fields: Any) -> Bench:
    """Two ranks in lock-step amid a batch whose answers end one at a time: by now that is known."""
    made = Bench(clock=clock, **{"prefetch": None, **fields})
    made.ready(0, 1, group=0, max_num_seqs=SEQUENCES, device=device)
    made.submit(items)
    while any(len(held) > SEQUENCES for held in made.held.values()) or max(bursts(made)) >= PART * SEQUENCES:
        end_one(made, 0)
        end_one(made, 1)
    fill(made)
    return made


def fill(made: Bench) -> None:
    """Until the group is full, so that a wave begins."""
    for _ in range(2 * DUE):
        if free(made):
            end_one(made, max((0, 1), key=lambda rank: len(made.held[rank])))


def bursts(made: Bench) -> list[float]:
    return [rank.burst for rank in made.dispatcher._ranks.values()]


def end_one(made: Bench, rank: int) -> None:
    made.answer(rank, next(iter(made.held[rank])))


def free(made: Bench) -> int:
    return sum(max(0, SEQUENCES - len(held)) for held in made.held.values())


def test_free_sequences_are_held_until_a_part_of_the_group_is_free_and_then_all_ranks_are_filled_at_once(
    clock: Clock,
) -> None:
    made = group(clock)
    for count in range(1, DUE):
        end_one(made, count % 2)
        assert free(made) == count
    made.sent.clear()
    end_one(made, 0)
    assert [len(held) for held in made.held.values()] == [SEQUENCES, SEQUENCES]
    assert sorted(rank for rank, _ in made.sent) == [0, 1]


def test_the_next_wave_comes_like_the_first(clock: Clock) -> None:
    made = group(clock)
    seen = []
    for count in range(4 * DUE):
        end_one(made, count % 2)
        seen.append(free(made))
    assert seen == [*range(1, DUE), 0] * 4


def test_a_rank_that_would_run_dry_beside_the_others_brings_the_wave(clock: Clock) -> None:
    made = Bench(prefetch=None, clock=clock)
    made.ready(*range(8), group=0, max_num_seqs=SEQUENCES, device="cuda")
    made.submit(LARGE)
    while len(made.held[0]) > SEQUENCES or max(bursts(made)) >= PART * SEQUENCES:
        for rank in range(8):
            end_one(made, rank)
    for _ in range(math.ceil(MOST_ON_ONE * SEQUENCES)):
        end_one(made, 0)
    assert len(made.held[0]) == SEQUENCES


def test_what_is_held_is_held_for_a_bounded_time(clock: Clock) -> None:
    made = group(clock)
    end_one(made, 0)
    assert made.due, "nobody would come back to what is held"
    turn(made, clock)
    assert free(made) == 1
    while clock.now < 1000.0 + LONGEST_HOLD_S + 0.2 and made.due:
        turn(made, clock)
    assert free(made) == 0
    end_one(made, 1)
    assert free(made) == 1, "the time counts anew for each wave"


def test_the_first_fill_gives_all_that_is_wanted_and_as_much_in_advance(clock: Clock) -> None:
    made = Bench(prefetch=None, clock=clock)
    made.ready(0, 1, group=0, max_num_seqs=SEQUENCES, device="cuda")
    made.submit(LARGE)
    assert [len(held) for held in made.held.values()] == [2 * SEQUENCES] * 2


def test_a_group_that_is_not_full_takes_what_comes(clock: Clock) -> None:
    made = Bench(prefetch=None, clock=clock)
    made.ready(0, 1, group=0, max_num_seqs=SEQUENCES, device="cuda")
    for count in range(1, SEQUENCES):
        made.submit(1)
        assert sum(len(held) for held in made.held.values()) == count


def test_answers_that_end_in_bursts_are_followed_at_once_and_in_advance(clock: Clock) -> None:
    """Items of one length: nothing is gained by holding what comes in waves by itself."""
    made = group(clock)
    made.answer(0, *list(made.held[0])[: SEQUENCES // 2])
    assert len(made.held[0]) == SEQUENCES + SEQUENCES // 2
    end_one(made, 1)
    assert len(made.held[1]) > SEQUENCES


def test_the_end_of_a_batch_is_not_held(clock: Clock) -> None:
    made = group(clock, items=1200)
    while made.dispatcher.backlog.items > 2 * SEQUENCES:
        end_one(made, 0)
        end_one(made, 1)
    fill(made)
    while made.dispatcher.backlog.items:
        end_one(made, made.dispatcher.backlog.items % 2)
        assert free(made) == 0 or not made.dispatcher.backlog.items


def test_a_batch_of_which_more_comes_has_no_end(clock: Clock) -> None:
    made = group(clock)
    flow = Flow(0)
    made.dispatcher.backlog.open(flow)
    while made.dispatcher.backlog.items > SEQUENCES:
        end_one(made, 0)
        end_one(made, 1)
    fill(made)
    end_one(made, 0)
    assert free(made) == 1


@pytest.mark.parametrize("of_bench", [{"device": "cpu"}, {"waves": False}, {"prefetch": 4}])
def test_ranks_without_graphs_and_what_the_operator_says_are_left_alone(clock: Clock, of_bench: dict[str, Any]) -> None:
    of_bench = {"prefetch": None, "device": "cuda"} | of_bench
    device = of_bench.pop("device")
    made = Bench(clock=clock, **of_bench)
    made.ready(0, 1, group=0, max_num_seqs=SEQUENCES, device=device)
    made.submit(LARGE)
    for count in range(1000):
        end_one(made, count % 2)
        assert all(len(held) > SEQUENCES for held in made.held.values())


def test_replicas_are_refilled_one_by_one(clock: Clock) -> None:
    made = Bench(prefetch=None, clock=clock)
    for rank in (0, 1):
        made.ready(rank, max_num_seqs=SEQUENCES, device="cuda")
    made.submit(LARGE)
    while max(bursts(made)) >= PART * SEQUENCES:
        end_one(made, 0)
        end_one(made, 1)
    for _ in range(DUE):
        end_one(made, 0)
        assert len(made.held[0]) >= SEQUENCES


def test_a_group_held_for_its_wave_does_not_hold_another(clock: Clock) -> None:
    made = group(clock)
    end_one(made, 0)
    made.ready(2, max_num_seqs=SEQUENCES, device="cuda")
    assert len(made.held[2]) >= SEQUENCES
    assert free(made) == 1


def test_an_online_item_goes_at_once_and_batches_have_its_groups_then(clock: Clock) -> None:
    made = group(clock, online_share=0.25)
    end_one(made, 0)
    chat = Flow(0, Owner("chats"), is_online=True)
    made.dispatcher.submit(chat, [make_item(chat, owner=made.owner)])
    assert chat.running
    assert all(rank.wave is not None and rank.wave.is_open for rank in made.dispatcher._ranks.values())


def test_an_item_without_a_sequence_goes_at_once(clock: Clock) -> None:
    made = group(clock)
    end_one(made, 0)
    flow = Flow(-1)
    made.dispatcher.submit(flow, [make_item(flow, owner=made.owner, n=0)])
    assert flow.running


def test_an_item_too_large_for_what_is_free_has_a_rank_kept_for_it_at_once(clock: Clock) -> None:
    made = group(clock)
    end_one(made, 0)
    flow = Flow(-1)
    made.dispatcher.submit(flow, [make_item(flow, owner=made.owner, n=SEQUENCES // 2)])
    assert [item.flow for item in made.dispatcher.reservations] == [flow]
    for _ in range(SEQUENCES // 2):
        end_one(made, 0)
        end_one(made, 1)
    assert flow.running


def test_suspects_are_tried_without_waiting_for_a_wave(clock: Clock) -> None:
    made = group(clock)
    end_one(made, 0)
    held = sum(len(of_rank) for of_rank in made.held.values())
    made.lose(0, 0, 1)
    made.ready(0, 1, group=0, max_num_seqs=SEQUENCES, device="cuda")
    assert sum(len(of_rank) for of_rank in made.held.values()) == held


def test_every_item_ends_whatever_is_held(clock: Clock) -> None:
    made = group(clock, items=1000)
    while any(made.held.values()):
        for rank in (0, 1):
            if made.held[rank]:
                end_one(made, rank)
    assert len(made.owner.results) == 1000


def test_a_small_batch_beside_a_large_one_waits_for_no_more_than_the_wave(clock: Clock) -> None:
    made = group(clock)
    end_one(made, 0)
    small = Flow(-1)
    made.dispatcher.submit(small, make_items(1, small, owner=made.owner))
    assert not small.running
    while not small.running and clock.now <= 1000.0 + LONGEST_HOLD_S + 0.1:
        turn(made, clock)
    assert small.running


def test_a_group_that_has_run_dry_is_filled_at_once(clock: Clock) -> None:
    made = group(clock, items=1000)
    while any(made.held.values()):
        end_one(made, 0 if made.held[0] else 1)
    made.submit(LARGE)
    assert all(len(held) >= SEQUENCES for held in made.held.values())
