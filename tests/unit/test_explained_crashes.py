"""Which crashes items explain, and which are held against their group: the breaker is for these."""

import pytest
from dispatch_bench import aborted
from test_trials import Played

from app.dispatch.item import Flow
from app.ranks.events import Loss, LossKind
from app.ranks.policy import Break, Limits, RestartPolicy
from engines.contract.item_errors import ItemErrorCode

LIMITS = Limits(failures=3, window_s=600, backoff_s=1, longest_backoff_s=1, trial_crashes=1000)
HANG = Loss(LossKind.STALLED, "it holds work and has made no step", 0)


class Supervised(Played):
    """A lock-step group that is started again after each loss, unless the breaker has opened."""

    def __init__(self) -> None:
        super().__init__(())
        self.policy = RestartPolicy(LIMITS)

    def hang(self) -> None:
        """It stands still and is lost."""
        aftermath = self.bench.lose(0, 0, 1, kind=HANG.kind, reason=HANG.reason)
        decision = self.policy.decide(HANG, aftermath, now=0)
        assert not isinstance(decision, Break), "the breaker has opened"
        self.policy.started()
        self.start(0)

    def hang_up(self, flow: Flow) -> None:
        """Its client goes away. The engine hears of it, and stands still."""
        self.bench.dispatcher.cancel(flow)


def test_clients_that_hang_up_on_an_item_that_hangs_do_not_open_the_breaker() -> None:
    played = Supervised()
    for _ in range(20):
        played.hang_up(played.bench.submit(1))
        played.hang()
    assert played.bench.dispatcher.suspects(0) == 0


def test_clients_that_hang_up_while_their_item_is_tried_alone_do_not_open_the_breaker() -> None:
    played = Supervised()
    for _ in range(20):
        poison = played.bench.submit(1)
        played.hang()
        played.hang_up(poison)
        played.hang()
    assert played.bench.dispatcher.suspects(0) == 0


def test_clients_that_hang_up_on_an_item_that_hangs_among_others_do_not_open_the_breaker() -> None:
    played = Supervised()
    for _ in range(20):
        poison = played.bench.submit(1)
        played.bench.submit(3)
        played.hang_up(poison)
        played.hang()
        played.run()
    assert len(played.outcomes()) == 3 and len(played.bench.owner.results) == 60


def test_crashes_that_no_item_explains_open_the_breaker_however_many_clients_hang_up() -> None:
    played = Supervised()
    for _ in range(LIMITS.failures):
        played.hang_up(played.bench.submit(1))
        played.hang()
        played.bench.submit(3)
        played.hang()
        played.run()
    played.bench.submit(3)
    with pytest.raises(AssertionError, match="the breaker has opened"):
        played.hang()


def test_several_culprits_of_one_crash_explain_that_crash_and_no_other() -> None:
    played = Played({3, 5, 8})
    played.bench.submit(16)
    played.run()
    assert played.bench.dispatcher.convicted == 3
    assert played.bench.lose(0, 0, 1, kind=LossKind.ENDED).explained == 1


@pytest.mark.parametrize("is_running", [False, True])
def test_a_crash_whose_suspect_was_taken_back_says_nothing_against_its_group(is_running: bool) -> None:
    """A batch that times out while its group starts again must not open the breaker, however often."""
    played = Played(())
    for crashes in range(1, 4):
        unwanted = played.bench.submit(1)
        assert played.bench.lose(0, 0, 1).explained == crashes - 1
        if is_running:
            played.start(0)
        played.bench.dispatcher.cancel(unwanted)
        if not is_running:
            played.start(0)
        for rank in (0, 1):
            for attempt in list(played.bench.held[rank]):
                played.bench.dispatcher.results(rank, played.bench.lives[rank], [aborted(attempt)])
                del played.bench.held[rank][attempt]
    assert played.bench.lose(0, 0, 1, kind=LossKind.ENDED).explained == 3


def test_a_culprit_explains_a_crash_of_the_group_that_it_crashed_first() -> None:
    played = Played({0}, lockstep=False)
    played.bench.submit(1)
    assert played.bench.lose(0, 0).explained == 0
    played.bench.dispatcher.group_given_up(0)  # its trial goes to the other group
    assert played.bench.lose(1, 1).explained == 0
    assert played.outcomes() == {0: ItemErrorCode.POISONED}
    played.start(0)
    assert played.bench.lose(0, 0, kind=LossKind.ENDED).explained == 1
