"""When a lost group is started again, and when no more."""

import pytest

from app.ranks.events import Aftermath, Loss, LossKind
from app.ranks.policy import MOST_PORT_CLASHES, Break, Limits, Restart, RestartPolicy
from app.settings.declaration import Settings

LIMITS = Limits(failures=3, window_s=100, backoff_s=2, longest_backoff_s=10, trial_crashes=4)
NOTHING = Aftermath()
ON_TRIAL = Aftermath(was_trial=True)


def loss(kind: LossKind = LossKind.DIED) -> Loss:
    return Loss(kind, "lightning", 0)


def policy(chance: float = 1.0) -> RestartPolicy:
    return RestartPolicy(LIMITS, lambda: chance)


@pytest.mark.parametrize("kind", [LossKind.DIED, LossKind.STALLED, LossKind.CANNOT_START])
def test_every_failure_doubles_the_pause_and_too_many_break(kind: LossKind) -> None:
    decider = policy()
    assert [decider.decide(loss(kind), NOTHING, at) for at in (0, 10, 20)] == [Restart(2), Restart(4), Restart(8)]
    broken = decider.decide(loss(kind), NOTHING, 30)
    assert broken == Break("it failed 4 times within 100 s (--breaker-failures 3), at last: lightning")


def test_the_pause_has_a_limit() -> None:
    decider = RestartPolicy(Limits(10, 1000, 2, 10, 0), lambda: 1.0)
    pauses = [decider.decide(loss(), NOTHING, 0) for _ in range(5)]
    assert pauses == [Restart(2), Restart(4), Restart(8), Restart(10), Restart(10)]


def test_it_may_fail_as_often_as_an_operator_allows() -> None:
    decider = RestartPolicy(Limits(5000, 1e6, 2, 10, 0), lambda: 1.0)
    assert [decider.decide(loss(), NOTHING, at) for at in range(3000)][-1] == Restart(10)


def test_groups_that_failed_together_start_apart() -> None:
    assert policy(0.0).decide(loss(), NOTHING, 0) == Restart(1)
    assert policy(0.5).decide(loss(), NOTHING, 0) == Restart(1.5)


def test_failures_are_forgotten_when_they_are_old() -> None:
    decider = policy()
    assert [decider.decide(loss(), NOTHING, at) for at in range(0, 1000, 101)] == [Restart(2)] * 10


def test_an_operator_closes_the_breaker() -> None:
    decider = policy()
    while isinstance(decider.decide(loss(), NOTHING, 0), Restart):
        pass
    decider.reset()
    assert decider.decide(loss(), NOTHING, 1) == Restart(2)


def test_an_operators_own_restart_is_no_failure() -> None:
    decider = policy()
    assert [decider.decide(loss(LossKind.ENDED), NOTHING, 0) for _ in range(20)] == [Restart(0)] * 20
    assert decider.decide(loss(), NOTHING, 0) == Restart(2)


def test_a_clash_of_ports_is_no_failure_unless_it_never_ends() -> None:
    decider = policy()
    for _ in range(MOST_PORT_CLASHES):
        assert decider.decide(loss(LossKind.PORT_CLASH), NOTHING, 0) == Restart(0.1)
    assert decider.decide(loss(LossKind.PORT_CLASH), NOTHING, 0) == Restart(2)
    decider.started()
    assert decider.decide(loss(LossKind.PORT_CLASH), NOTHING, 0) == Restart(0.1)


def test_crashes_on_trial_are_no_failures_and_have_a_budget() -> None:
    decider = policy()
    assert [decider.decide(loss(), ON_TRIAL, at) for at in range(4)] == [Restart(0)] * 4
    assert decider.decide(loss(), ON_TRIAL, 5) == Restart(2)
    assert decider.decide(loss(), ON_TRIAL, 3700) == Restart(0)


def test_an_item_that_was_at_fault_explains_a_failure() -> None:
    """Twenty poisoned items in a day's work must not look like a broken machine."""
    decider = policy()
    for explained in range(20):
        assert decider.decide(loss(), Aftermath(explained=explained), 0) == Restart(2)


def test_starts_that_fail_slowly_break_as_well() -> None:
    """A window never holds enough of them."""
    decider = policy()
    slow = loss(LossKind.CANNOT_START)
    assert [decider.decide(slow, NOTHING, at) for at in (0, 101, 202)] == [Restart(2)] * 3
    broken = decider.decide(slow, NOTHING, 303)
    assert broken == Break("it could not be started 4 times in a row (--breaker-failures 3), at last: lightning")
    decider.reset()
    assert [decider.decide(slow, NOTHING, at) for at in (404, 505, 606)] == [Restart(2)] * 3
    decider.started()
    assert decider.decide(slow, NOTHING, 707) == Restart(2)


def test_limits_come_from_the_settings() -> None:
    settings = Settings(breaker_failures=7, breaker_window_s="1h", restart_backoff_s="500ms", trial_restarts=3)
    assert Limits.of(settings) == Limits(7, 3600, 0.5, 60, 3)
