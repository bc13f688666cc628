"""What `phalanx tune` measures next, when it stops, and what wins: decided from figures alone."""

from collections.abc import Callable

import pytest

from engines.contract.tuned import graphs_up_to
from phalanx.tune.search import BASELINE, Number, Space, next_candidate, to_repeat, winner
from phalanx.tune.trials import ROUNDS, Candidate, Facts, Trial, is_clearly_faster
from tests.tuning import failed, trial

REPLICAS = Candidate(expert_parallel=False)
Speed = Callable[[Candidate, Facts], float | None]  # tokens/s; None: it does not start


def tried(speed: Speed, space: Space, *, group_kind: str = "replicas", graphs: bool = False) -> list[Trial]:
    """All that the search asks for, of a service whose speed is known."""
    trials: list[Trial] = []
    while (candidate := next_candidate(space, trials)) is not None:
        assert len(trials) < 50, "the search does not end"
        facts = Facts(
            ranks=2,
            group_kind="replicas" if candidate.expert_parallel is False or candidate.ranks_per_gpu else group_kind,
            sequences=candidate.sequences or 256,
            step_tokens=candidate.step_tokens or 4096,
            ranks_per_gpu=(candidate.ranks_per_gpu or 1) if graphs else None,
            graph_tokens=(candidate.graph_tokens or graphs_up_to(candidate.sequences or 256)) if graphs else None,
            missing_tiles=["E=20,N=512,device_name=GPU.json"],
        )
        rate = speed(candidate, facts)
        if rate is None:
            trials.append(failed(candidate))
            continue
        trials.append(trial(candidate, rate, rate * 1.005, rate * 1.01, facts=facts))
    return trials


def words(trials: list[Trial]) -> list[str]:
    return [trial.candidate.words for trial in trials]


SEQUENCES = Space(numbers=(Number.SEQUENCES,))


def test_the_first_is_what_the_service_chooses() -> None:
    assert next_candidate(Space(), []) == BASELINE


def test_a_number_is_doubled_for_as_long_as_it_helps() -> None:
    found = tried(lambda _, facts: min(facts.sequences, 1024) * 10.0, SEQUENCES)
    assert words(found) == ["baseline", "512 sequences", "1024 sequences", "2048 sequences"]


def test_a_number_is_halved_where_doubling_does_not_help() -> None:
    found = tried(lambda _, facts: 1000.0 - facts.sequences, SEQUENCES)
    assert words(found) == ["baseline", "512 sequences", *(f"{n} sequences" for n in (128, 64, 32, 16))]


def test_what_does_not_start_is_passed_and_ends_that_way_only() -> None:
    found = tried(lambda _, facts: None if facts.sequences > 512 else facts.sequences * 10.0, SEQUENCES)
    assert words(found) == ["baseline", "512 sequences", "1024 sequences"]
    assert winner(found) is found[1]


def test_one_thing_after_another_is_changed_on_top_of_the_best() -> None:
    def speed(candidate: Candidate, facts: Facts) -> float:
        of_group = 2.0 if candidate.expert_parallel is False else 1.0
        return of_group * (1.5 if facts.sequences == 512 else 1.0) * (1.5 if facts.step_tokens == 8192 else 1.0)

    found = tried(speed, Space(tiles=True), group_kind="lockstep")
    assert words(found) == [
        "baseline",
        "replicas",
        "replicas, 512 sequences",
        "replicas, 1024 sequences",
        "replicas, 512 sequences, 8192 step tokens",
        "replicas, 512 sequences, 16384 step tokens",
        "replicas, 512 sequences, 8192 step tokens, tiles",
    ]
    best = winner(found)
    assert best is not None and best.candidate.words == "replicas, 512 sequences, 8192 step tokens"


def test_ranks_share_a_gpu_where_that_helps() -> None:
    """Which they do only with all experts each, so that replicas of one GPU need not be tried."""

    def speed(candidate: Candidate, facts: Facts) -> float:
        of_host = min(facts.ranks_per_gpu or 1, 2)
        return of_host * (0.9 if facts.group_kind == "replicas" else 1.0) * (1.5 if candidate.step_tokens else 1.0)

    space = Space(numbers=(Number.RANKS_PER_GPU, Number.STEP_TOKENS))
    found = tried(speed, space, group_kind="lockstep", graphs=True)
    assert words(found) == [
        "baseline",
        "2 ranks a GPU",
        "4 ranks a GPU",
        "2 ranks a GPU, 8192 step tokens",
        "2 ranks a GPU, 16384 step tokens",
    ]
    assert [trial.candidate.ranks_per_gpu for trial in found] == [None, 2, 4, 2, 2]
    of_gpus = tried(lambda _, facts: 3.0 - (facts.ranks_per_gpu or 1), space, group_kind="lockstep", graphs=True)
    assert words(of_gpus)[:3] == ["baseline", "2 ranks a GPU", "replicas"]
    assert words(tried(speed, Space(numbers=(Number.RANKS_PER_GPU,)))) == ["baseline"], "there are no GPUs"


def test_graphs_grow_beyond_the_sequences_where_that_helps() -> None:
    """And more sequences come on top of them, with no fewer graphs."""

    def speed(_: Candidate, facts: Facts) -> float:
        return min(facts.sequences, 512) + min(facts.graph_tokens or 0, 2048) * 1.0

    found = tried(speed, Space(numbers=(Number.GRAPH_TOKENS, Number.SEQUENCES)), graphs=True)
    assert words(found) == [
        "baseline",
        "256 sequences, graphs to 1024 tokens",
        "256 sequences, graphs to 2048 tokens",
        "256 sequences, graphs to 4096 tokens",
        "512 sequences, graphs to 2048 tokens",
        "1024 sequences, graphs to 2048 tokens",
    ]


def test_graphs_are_said_together_with_the_sequences() -> None:
    found = tried(
        lambda _, facts: min(facts.graph_tokens or 0, 2048), Space(numbers=(Number.GRAPH_TOKENS,)), graphs=True
    )
    assert words(found) == [
        "baseline",
        "256 sequences, graphs to 1024 tokens",
        "256 sequences, graphs to 2048 tokens",
        "256 sequences, graphs to 4096 tokens",
    ]


def test_an_engine_without_graphs_is_not_asked_for_any() -> None:
    assert words(tried(lambda *_: 100.0, Space(numbers=(Number.GRAPH_TOKENS,)))) == ["baseline"]


def test_a_step_has_a_token_of_each_sequence() -> None:
    found = tried(lambda _, facts: facts.sequences / facts.step_tokens, Space())
    assert all(one.facts is None or one.facts.sequences <= (one.facts.step_tokens or 0) for one in found)
    assert words(found)[-1] == "4096 sequences, 8192 step tokens", "fewer than 4096 would not go with that"


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (Space(numbers=()), ["baseline", "replicas"]),
        (Space(groups=False, numbers=()), ["baseline"]),
        (Space(groups=False, numbers=(Number.STEP_TOKENS,)), ["baseline", "8192 step tokens", "2048 step tokens"]),
    ],
)
def test_what_the_user_decided_is_left_alone(space: Space, expected: list[str]) -> None:
    assert words(tried(lambda *_: 100.0, space, group_kind="lockstep")) == expected


def test_an_engine_without_steps_is_not_asked_for_any() -> None:
    baseline = trial(BASELINE, 100, 101)
    baseline.facts = Facts(ranks=1, group_kind="replicas", sequences=256, step_tokens=None)
    assert next_candidate(Space(numbers=(Number.STEP_TOKENS,)), [baseline]) is None


def test_a_lucky_round_moves_nothing() -> None:
    noisy = trial(Candidate(sequences=512), 90, 300)
    assert not is_clearly_faster(noisy, trial(BASELINE, 95, 105))
    space = SEQUENCES
    assert next_candidate(space, [trial(BASELINE, 95, 105), noisy]) == Candidate(sequences=128)


def test_tiles_are_tried_where_vllm_misses_some() -> None:
    names = ["E=8,N=64,device_name=GPU.json"]
    facts = Facts(ranks=1, group_kind="replicas", sequences=256, step_tokens=None, missing_tiles=names)
    has_all, misses = trial(BASELINE, 100, 101), trial(BASELINE, 100, 101, facts=facts)
    for space, expected in [(Space(numbers=(), tiles=True), Candidate(tiles=True)), (Space(numbers=()), None)]:
        assert next_candidate(space, [has_all]) is None
        assert next_candidate(space, [misses]) == expected


def test_repeats_do_not_change_the_way_that_the_search_took() -> None:
    trials = tried(lambda _, facts: min(facts.sequences, 1024) * 10.0, SEQUENCES)
    trials[1].add(trial(trials[1].candidate, 1, 2))
    assert next_candidate(SEQUENCES, trials) is None


def test_the_best_two_are_measured_again_and_then_the_baseline() -> None:
    trials = tried(lambda _, facts: min(facts.sequences, 1024) * 10.0, SEQUENCES)
    again = []
    while (candidate := to_repeat(trials)) is not None:
        again.append(candidate.words)
        one = next(one for one in trials if one.candidate == candidate)
        one.add(trial(candidate, *one.rates))
    assert again == ["1024 sequences", "2048 sequences", "baseline"]
    assert all(len(one.rounds) >= 2 * ROUNDS for one in trials if one.candidate.words in again)


def test_one_that_falls_behind_in_its_second_start_makes_room_for_the_next() -> None:
    first, second = Candidate(sequences=512), Candidate(sequences=1024)
    trials = [trial(BASELINE, 100, 100, 101), trial(first, 200, 201, 201), trial(second, 150, 150, 151)]
    trials[1].add(trial(first, 50, 50, 51))
    assert to_repeat(trials) == second
    trials[2].add(trial(second, 150, 150, 151))
    assert to_repeat(trials) == BASELINE
    trials[0].add(trial(BASELINE, 100, 100, 101))
    assert to_repeat(trials) is None
    best = winner(trials)
    assert best is not None and best.candidate == second


def test_one_alone_is_not_repeated() -> None:
    assert to_repeat([trial(BASELINE, 100, 101), failed(Candidate(sequences=512))]) is None


def test_the_fastest_wins_by_more_than_noise_or_not_at_all() -> None:
    faster = trial(Candidate(sequences=512), 110, 112, 114)
    assert winner([trial(BASELINE, 100, 102, 104), faster]) is faster
    baseline = trial(BASELINE, 100, 113, 110)
    assert winner([baseline, faster]) is baseline


@pytest.mark.parametrize("disturbed", [(100, 101, 170), (30, 100, 101)])
def test_one_disturbed_round_does_not_hide_a_gain(disturbed: tuple[float, ...]) -> None:
    faster = trial(Candidate(sequences=512), 180, 181, 182)
    assert is_clearly_faster(faster, trial(BASELINE, *disturbed))
    assert is_clearly_faster(trial(faster.candidate, 120, 180, 181), trial(BASELINE, 100, 101, 102))


def test_rounds_are_compared_with_those_of_the_same_place() -> None:
    """The longest answers leave first, so that the rounds of one batch differ by more than candidates do."""
    slow, fast = trial(BASELINE, 160, 100, 60), trial(Candidate(sequences=512), 176, 110, 66)
    assert is_clearly_faster(fast, slow) and not is_clearly_faster(slow, fast)
    assert not is_clearly_faster(trial(fast.candidate, 176, 99, 66), slow)
    slow.add(trial(BASELINE, 162, 101, 61))
    assert is_clearly_faster(fast, slow)
    slow.add(trial(BASELINE, 150, 90, 67))
    assert not is_clearly_faster(fast, slow), "one of its rounds was as fast in the same place"


def test_of_equals_the_one_that_changes_least_wins() -> None:
    fastest = trial(Candidate(sequences=512, step_tokens=8192), 120, 124, 130)
    simpler = trial(Candidate(sequences=512), 121, 122, 125)
    assert winner([trial(BASELINE, 100, 102, 104), simpler, fastest]) is simpler
    assert winner([failed(BASELINE)]) is None


def test_a_repeat_that_fails_takes_a_candidate_out() -> None:
    faster = trial(Candidate(sequences=512), 110, 114)
    faster.add(failed(faster.candidate))
    baseline = trial(BASELINE, 100, 104)
    assert winner([baseline, faster]) is baseline
