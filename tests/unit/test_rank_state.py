"""A rank as the gateway knows it."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from dispatch_bench import facts

from app.ranks import rank as ranks
from app.ranks.rank import LOG_TAIL_BYTES, Rank, RankState
from engines.contract.protocol import Stage, Status
from engines.contract.spec import Share
from engines.host.rank_log import LogPart

LOG = Path("/none/rank-0.log")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(ranks, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def begun() -> Rank:
    rank = Rank(0, group=0)
    rank.begin(LogPart(LOG), Share())
    return rank


def test_a_rank_begins_pending() -> None:
    rank = Rank(3, group=1)
    assert (rank.number, rank.group, rank.state, rank.incarnation, rank.stage) == (3, 1, RankState.PENDING, 0, None)
    assert not rank.is_ready
    assert not rank.is_alive


@pytest.mark.parametrize(
    ("transition", "state", "is_alive"),
    [
        (lambda rank: rank.become_ready(facts()), RankState.READY, True),
        (Rank.drain, RankState.DRAINING, True),
        (Rank.stop, RankState.STOPPED, False),
        (lambda rank: rank.fail("it choked"), RankState.FAILED, False),
        (Rank.wait, RankState.BACKOFF, False),
        (lambda rank: rank.give_up("it choked too often"), RankState.BROKEN, False),
    ],
)
def test_each_transition_leads_to_one_state(
    transition: Callable[[Rank], None], state: RankState, is_alive: bool
) -> None:
    rank = begun()
    assert (rank.state, rank.is_alive) == (RankState.STARTING, True)
    transition(rank)
    assert (rank.state, rank.is_ready, rank.is_alive) == (state, state is RankState.READY, is_alive)


def test_stages_have_an_age(clock: Clock) -> None:
    rank = begun()
    assert (rank.state, rank.stage, rank.stage_since) == (RankState.STARTING, Stage.SPAWNED, 1000.0)
    clock.now = 1003.0
    rank.reach(Stage.LOADING)
    assert (rank.stage, rank.stage_since) == (Stage.LOADING, 1003.0)


def test_what_follows_the_first_line_of_an_error_is_the_logs() -> None:
    rank = begun()
    assert rank.error_line is None
    rank.fail("it failed too often:\n  a line of its log\n  and another")
    assert rank.error_line == "it failed too often:"


def test_a_new_life_knows_nothing_of_the_one_before(clock: Clock) -> None:
    rank = begun()
    rank.beat(Status(incarnation=1, completion_tokens=5))
    clock.now += 1
    rank.beat(Status(incarnation=1, completion_tokens=105))
    rank.pid = 4711
    rank.fail("it choked")
    assert (rank.state, rank.last_error) == (RankState.FAILED, "it choked")
    rank.begin(LogPart(LOG), Share())
    assert (rank.state, rank.incarnation, rank.stage) == (RankState.STARTING, 2, Stage.SPAWNED)
    assert (rank.pid, rank.status, rank.facts) == (None,) * 3
    assert rank.last_error == "it choked"  # why it was started again
    assert rank.tokens_per_s == 0
    rank.beat(Status(incarnation=2, completion_tokens=7))
    assert rank.tokens_per_s == 0  # no rate across lives


def test_tokens_per_second_follow_the_heartbeats(clock: Clock) -> None:
    rank = begun()
    for beat in range(40):
        rank.beat(Status(incarnation=1, completion_tokens=200 * beat))
        clock.now += 2
    assert rank.tokens_per_s == pytest.approx(100, rel=0.01)
    for _ in range(40):
        rank.beat(Status(incarnation=1, completion_tokens=200 * 39))
        clock.now += 2
    assert rank.tokens_per_s == pytest.approx(0, abs=0.01)


def test_two_heartbeats_at_once_are_no_rate(clock: Clock) -> None:
    rank = begun()
    rank.beat(Status(incarnation=1, completion_tokens=1))
    rank.beat(Status(incarnation=1, completion_tokens=100))
    assert rank.tokens_per_s == 0
    assert rank.status == Status(incarnation=1, completion_tokens=100)
    assert clock.now == 1000.0


def test_a_log_tail_is_the_last_lines(tmp_path: Path) -> None:
    rank = begun()
    log = tmp_path / "rank-0.log"
    rank.begin(LogPart(log), Share())
    log.write_bytes(b"".join(b"line %d \xff\n" % number for number in range(10_000)))
    assert rank.log_tail(2) == ["line 9998 \N{REPLACEMENT CHARACTER}", "line 9999 \N{REPLACEMENT CHARACTER}"]
    assert len("\n".join(rank.log_tail(10_000)).encode()) < 2 * LOG_TAIL_BYTES
    assert rank.log_tail(0) == []


def test_a_log_tail_is_of_this_life_alone(tmp_path: Path) -> None:
    log = tmp_path / "rank-0.log"
    log.write_text("an old line\n" * 3)
    rank = Rank(0, group=0)
    rank.begin(LogPart(log), Share())
    assert rank.log_tail(10) == []
    with log.open("a") as file:
        file.write("a new line\n")
    assert rank.log_tail(10) == ["a new line"]
    log.write_text("begun anew\n")  # it had grown too long
    assert rank.log_tail(10) == ["begun anew"]


def test_a_log_that_is_not_there_has_no_tail() -> None:
    assert Rank(0, group=0).log_tail(5) == []
    assert begun().log_tail(5) == []
