"""Which groups stand still, and which are only slow."""

from dataclasses import replace

from app.ranks.stalls import STOPPED_S, Pulse, Stall, find_stall

WELL = Pulse(rank=0, holds_work=True, progress_age_s=1, silence_s=1, longest_step_s=0.1)
PEER = replace(WELL, rank=1)
TIMEOUT_S = 60.0


def stall(*pulses: Pulse) -> Stall | None:
    return find_stall(pulses, TIMEOUT_S, 1.0)


def test_a_group_that_gets_on_is_left_alone() -> None:
    assert stall(WELL, PEER) is None


def test_a_rank_that_holds_work_and_makes_no_step_is_stalled() -> None:
    still = replace(PEER, progress_age_s=61)
    assert stall(WELL, replace(still, progress_age_s=59)) is None
    assert stall(WELL, still) == Stall(1, "it holds work and has made no step for 61 s (--stall-timeout-s 60)")


def test_an_idle_rank_is_never_stalled() -> None:
    """While its own process speaks: an engine that was stopped is found when there is work for it."""
    assert stall(replace(WELL, holds_work=False, progress_age_s=10_000, is_asleep=True, stopped="it")) is None


def test_an_idle_rank_that_was_stopped_itself_is_found_by_its_silence() -> None:
    """A check of parameters would wait for it."""
    frozen = replace(PEER, holds_work=False, stopped="rank 1", silence_s=STOPPED_S + 1)
    assert stall(WELL, frozen) == Stall(1, "it has not said a word for 6 s: rank 1 was stopped")
    assert stall(WELL, replace(frozen, silence_s=STOPPED_S - 1)) is None
    assert stall(WELL, replace(frozen, stopped=None)) is None


def test_a_long_step_makes_the_group_patient() -> None:
    slow = replace(WELL, longest_step_s=30)
    still = replace(PEER, progress_age_s=299)
    assert stall(slow, still) is None
    assert stall(slow, replace(still, progress_age_s=301)) is not None


def test_a_stopped_process_shortens_the_wait_for_the_whole_group() -> None:
    """A frozen rank freezes its peers: whichever of them holds work shows it."""
    frozen = replace(WELL, holds_work=False, stopped="VLLM::Worker_DP0")
    waiting = replace(PEER, progress_age_s=STOPPED_S + 0.5)
    assert stall(frozen, waiting) == Stall(
        1, "it holds work and has made no step for 6 s: VLLM::Worker_DP0 was stopped"
    )
    assert stall(frozen, replace(waiting, progress_age_s=STOPPED_S - 1)) is None


def test_processes_that_use_no_cpu_shorten_the_wait() -> None:
    asleep = replace(WELL, progress_age_s=16, is_asleep=True)
    found = stall(asleep, replace(asleep, rank=1))
    assert found is not None and "none of its processes uses any CPU" in found.reason
    assert stall(asleep, replace(asleep, rank=1, is_asleep=False)) is None
    assert stall(replace(asleep, progress_age_s=14)) is None


def test_a_rank_that_says_nothing_for_very_long_is_stalled() -> None:
    assert stall(replace(WELL, holds_work=False, silence_s=59)) is None
    assert stall(WELL, replace(PEER, holds_work=False, silence_s=61)) == Stall(1, "it has not said a word for 61 s")
