"""Which items crash their engine: found with few crashes, and nobody else fails."""

import math
import random
from collections import Counter
from collections.abc import Collection

import pytest
from dispatch_bench import Bench, aborted, ok

from app.dispatch.item import Item
from app.ranks.events import LossKind
from engines.contract.item_errors import ItemErrorCode


class Played:
    """A lock-step group of two ranks, or two replicas, on which some items crash what runs them."""

    def __init__(self, poisons: Collection[int], *, lockstep: bool = True, max_num_seqs: int = 64) -> None:
        self.bench = Bench()
        self.poisons = poisons
        self.groups: dict[int, tuple[int, ...]] = {0: (0, 1)} if lockstep else {0: (0,), 1: (1,)}
        self.max_num_seqs = max_num_seqs
        self.crashes: Counter[int] = Counter()
        self.chance = random.Random(5)
        for group in self.groups:
            self.start(group)

    def start(self, group: int) -> None:
        self.bench.ready(*self.groups[group], group=group, max_num_seqs=self.max_num_seqs)

    def crash(self, group: int, kind: LossKind = LossKind.DIED) -> None:
        self.crashes[group] += 1
        self.bench.lose(group, *self.groups[group], kind=kind)
        self.start(group)

    def item(self, attempt: int) -> Item:
        return next(item for item, _ in reversed(self.bench.owner.started) if item.attempt == attempt)

    def step(self) -> None:
        """Every group answers some of what it runs, or crashes if that holds a culprit."""
        for group, ranks in self.groups.items():
            held = {rank: list(self.bench.held[rank]) for rank in ranks}
            running = [attempt for attempts in held.values() for attempt in attempts]
            if any(self.item(attempt).index in self.poisons for attempt in running):
                self.crash(group)
                continue
            for rank, attempts in held.items():
                if attempts:
                    self.bench.answer(rank, *self.chance.sample(attempts, self.chance.randint(1, len(attempts))))

    def run(self) -> None:
        for _ in range(10_000):
            if not any(self.bench.held.values()):
                return
            self.step()
        raise AssertionError("it never ends")

    def outcomes(self) -> dict[int, ItemErrorCode | None]:
        return {
            item.index: result.error.code if result.error else None for item, result in self.bench.owner.results.items()
        }


@pytest.mark.parametrize("lockstep", [True, False])
@pytest.mark.parametrize("poisons", [{0}, {511}, {130}, {1, 2}, {3, 400}, {10, 11, 12, 13}, set(range(0, 512, 64))])
def test_culprits_are_found_within_the_bound_and_all_others_succeed(poisons: set[int], lockstep: bool) -> None:
    played = Played(poisons, lockstep=lockstep)
    played.bench.submit(512)
    played.run()
    outcomes = played.outcomes()
    assert {index for index, code in outcomes.items() if code is not None} == poisons
    assert {outcomes[index] for index in poisons} == {ItemErrorCode.POISONED}
    assert len(outcomes) == 512
    in_flight = played.max_num_seqs * (2 if lockstep else 1)
    for group, ranks in played.groups.items():
        convicted = sum(
            played.bench.owner.ranks[item] in ranks for item in played.bench.owner.results if item.index in poisons
        )
        # Culprits of later cohorts make a first crash of their own, which the bound for one cohort does not hold.
        assert played.crashes[group] <= convicted * (math.ceil(math.log2(in_flight)) + 1) + convicted
    assert played.bench.dispatcher.backlog.items == played.bench.dispatcher.backlog.tokens == 0


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 100, 128])
@pytest.mark.parametrize("culprits", [1, 2, 3])
def test_the_bound_holds_for_one_cohort(count: int, culprits: int) -> None:
    for seed in range(20):
        poisons = set(random.Random(seed).sample(range(count), min(culprits, count)))
        played = Played(poisons)
        played.bench.submit(count)
        played.run()
        k = len(poisons)
        assert played.crashes[0] <= k * (math.ceil(math.log2(count)) + 1) + 1
        assert Counter(played.outcomes().values())[ItemErrorCode.POISONED] == k


def test_a_crash_from_outside_costs_one_restart_and_convicts_nobody() -> None:
    played = Played(())
    played.bench.submit(300)
    played.crash(0)
    assert played.bench.dispatcher.suspects(0) == 128
    played.run()
    assert played.crashes[0] == 1
    assert set(played.outcomes().values()) == {None}
    assert played.bench.dispatcher.suspects(0) == 0


def test_while_one_replica_is_on_trial_the_other_serves_on() -> None:
    played = Played((), lockstep=False, max_num_seqs=4)
    played.bench.submit(16)
    cohort = set(played.bench.held[0])
    played.bench.lose(0)
    suspects = {played.item(attempt) for attempt in cohort}
    played.bench.answer(1)
    assert not suspects & {played.item(attempt) for attempt in played.bench.held[1]}
    played.start(0)
    assert {played.item(attempt) for attempt in played.bench.held[0]} == suspects
    played.bench.answer(0, *list(played.bench.held[0])[:3])
    assert len(played.bench.held[0]) == 1, "it takes nothing else while it is on trial"
    played.run()
    assert len(played.outcomes()) == 16


def test_what_no_engine_was_given_is_no_suspect() -> None:
    played = Played(())
    played.bench.submit(10)
    spared = list(played.bench.held[0])[2:]
    played.bench.lose(0, 0, 1, untouched=spared)
    assert played.bench.dispatcher.suspects(0) == 10 - len(spared)
    assert played.bench.dispatcher.backlog.items == 10
    assert sum(1 for _ in played.bench.owner.lost) == 10
    played.start(0)
    played.run()
    assert len(played.outcomes()) == 10


def test_a_cohort_whose_group_does_not_come_back_is_tried_by_another_once_that_has_finished() -> None:
    played = Played({2}, lockstep=False, max_num_seqs=4)
    played.bench.submit(8)
    played.bench.lose(0)
    played.bench.dispatcher.group_given_up(0)
    running = list(played.bench.held[1])
    played.bench.answer(1, *running[:3])
    assert list(played.bench.held[1]) == running[3:], "what ran there comes first, alone"
    played.bench.answer(1)
    assert len(played.bench.held[1]) == 4
    del played.groups[0]
    played.run()
    assert played.outcomes()[2] is ItemErrorCode.POISONED
    assert len(played.outcomes()) == 8


def test_a_cohort_waits_for_whichever_group_comes_first_when_there_is_none() -> None:
    played = Played((), lockstep=False, max_num_seqs=4)
    played.bench.submit(8)
    for group in (0, 1):
        played.bench.lose(group)
        played.bench.dispatcher.group_given_up(group)
    assert played.bench.dispatcher.backlog.items == 8
    played.start(1)
    del played.groups[0]
    played.run()
    assert len(played.outcomes()) == 8


def test_a_restart_by_hand_in_the_middle_of_a_trial_is_held_against_nobody() -> None:
    played = Played(())
    played.bench.submit(20)
    played.crash(0)
    played.bench.answer(0)
    played.crash(0, LossKind.ENDED)
    played.run()
    assert set(played.outcomes().values()) == {None}
    assert len(played.outcomes()) == 20


def test_cancelled_suspects_leave_the_trial() -> None:
    played = Played(())
    flow = played.bench.submit(10)
    other = played.bench.submit(10)
    played.bench.lose(0, 0, 1)
    played.bench.dispatcher.cancel(flow)
    assert played.bench.dispatcher.suspects(0) == 10
    played.start(0)
    assert {played.item(attempt).flow for held in played.bench.held.values() for attempt in held} == {other}
    played.bench.dispatcher.cancel(other)
    assert sorted(played.bench.aborts(0) + played.bench.aborts(1)) == sorted(
        [*played.bench.held[0], *played.bench.held[1]]
    )
    late = played.bench.submit(3)
    for rank in (0, 1):
        played.bench.answer(rank, make=aborted)
    assert {played.item(attempt).flow for held in played.bench.held.values() for attempt in held} == {late}
    played.run()
    assert len(played.outcomes()) == 3
    assert played.bench.dispatcher.backlog.items == 0


def test_an_item_alone_is_convicted_at_its_second_crash() -> None:
    played = Played({0})
    played.bench.submit(1)
    played.step()
    assert not played.outcomes()
    played.step()
    assert played.outcomes() == {0: ItemErrorCode.POISONED}
    assert played.crashes[0] == 2


def test_late_results_of_a_trial_are_dropped() -> None:
    played = Played(())
    played.bench.submit(4)
    attempts = list(played.bench.held[0])
    played.crash(0)
    played.bench.dispatcher.results(0, 1, [ok(attempt) for attempt in attempts])
    assert not played.outcomes()
    played.run()
    assert len(played.outcomes()) == 4


def test_a_suspect_that_nobody_wants_any_more_may_have_been_the_cause() -> None:
    """Its batch timed out, and then the group was lost: who else was in the round is not convicted for that."""
    played = Played(())
    wanted = played.bench.submit(1)
    unwanted = played.bench.submit(1)
    played.crash(0)
    played.bench.dispatcher.cancel(unwanted)
    aftermath = played.bench.lose(0, 0, 1, kind=LossKind.STALLED)
    assert aftermath.was_trial and aftermath.explained == 0
    played.start(0)
    assert {played.item(attempt).flow for held in played.bench.held.values() for attempt in held} == {wanted}
    played.run()
    assert played.outcomes() == {0: None}
    assert played.bench.dispatcher.backlog.items == 0


def test_a_round_whose_suspects_are_all_unwanted_is_a_trial_all_the_same() -> None:
    played = Played(())
    flow = played.bench.submit(4)
    played.crash(0)
    played.bench.dispatcher.cancel(flow)
    assert played.bench.lose(0, 0, 1).was_trial
    assert played.bench.dispatcher.suspects(0) == 0
    played.start(0)
    played.bench.submit(2)
    played.run()
    assert set(played.outcomes().values()) == {None}


def test_the_last_of_a_larger_round_is_tried_alone_before_it_is_convicted() -> None:
    """Twice the machine kills the engine, the second time when only the longest of the cohort is left."""
    played = Played(())
    played.bench.submit(4)
    played.crash(0)
    held = [(rank, attempt) for rank in (0, 1) for attempt in played.bench.held[rank]]
    for rank, attempt in held[:-1]:
        played.bench.answer(rank, attempt)
    played.crash(0)
    assert played.bench.dispatcher.convicted == 0
    played.run()
    assert played.outcomes() == dict.fromkeys(range(4))
