"""How long `phalanx tune` takes: what fits into the budget."""

from phalanx.tune.budget import Budget, choose_fills, expected_s
from phalanx.tune.search import BASELINE
from phalanx.tune.trials import Candidate
from tests.tuning import failed, trial

REPLICAS = Candidate(expert_parallel=False)


def test_nothing_begins_that_would_not_fit() -> None:
    now = [0.0]
    budget = Budget(100, lambda: now[0])
    trials = [trial(BASELINE, 1, 1, took_s=60), trial(REPLICAS, 1, 1, took_s=20), failed(Candidate(sequences=512))]
    assert expected_s(trials) == 20, "the first start filled the caches; what failed took no time"
    now[0] = 40
    assert budget.has_room_for(trials, 3)
    now[0] = 41
    assert not budget.has_room_for(trials, 3) and budget.has_room_for(trials, 1)


def test_a_new_one_leaves_time_to_repeat_the_best() -> None:
    now = [40.0]
    budget = Budget(100, lambda: now[0] - 40)
    trials = [trial(BASELINE, 1, 1, took_s=60), trial(REPLICAS, 1, 1, took_s=20)]
    now[0] = 100
    assert budget.has_room_for_new(trials) and not budget.has_room_for_new(trials, 1)
    now[0] = 101
    assert not budget.has_room_for_new(trials)


def test_a_cold_first_start_is_no_reason_to_try_nothing_else() -> None:
    """As on an H200: 218 s of ten minutes for the first, 70 to 100 s for each after it."""
    now = [0.0]
    budget = Budget(600, lambda: now[0])
    now[0] = 245
    assert budget.has_room_for_new([trial(BASELINE, 1, 1, took_s=245)])
    now[0] = 360
    assert not budget.has_room_for_new([trial(BASELINE, 1, 1, took_s=245)])


def test_a_sweep_of_long_starts_goes_on_with_each_command() -> None:
    """Two of them do not fit into ten minutes."""
    now = [0.0]
    budget = Budget(600, lambda: now[0])
    trials = [trial(BASELINE, 1, 1, took_s=420), trial(REPLICAS, 1, 1, took_s=350)]
    assert budget.has_room_for_new(trials) and budget.never_has_room_s(trials) is None
    assert budget.never_has_room_s(trials, 1) == 700
    now[0] = 350
    assert not budget.has_room_for_new(trials)


def test_the_first_is_all_that_is_known_of_the_second() -> None:
    assert expected_s([]) == 0
    assert expected_s([trial(BASELINE, 1, 1, took_s=60)]) == 60


def test_sequences_are_filled_several_times_unless_that_takes_too_long() -> None:
    assert choose_fills(fill_s=1, budget_s=600) == 2
    assert choose_fills(fill_s=6, budget_s=600) == 1
    assert choose_fills(fill_s=0.09, budget_s=600) == 12, "a second is the least that can be timed"
    assert choose_fills(fill_s=0.09, budget_s=0) == 12, "whatever the budget: it is little beside a start"
    assert choose_fills(fill_s=0.001, budget_s=600) == 100
