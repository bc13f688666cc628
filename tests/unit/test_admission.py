"""Whether there is room, how long until there is, and what can never fit."""

from collections.abc import Callable
from typing import Any

import pytest
from batch_bench import make_items, make_run

from app.batches.admission import AdmissionGate, Asked
from app.batches.rate import UNKNOWN_RETRY_S, RateMeter
from app.dispatch.backlog import Backlog
from app.dispatch.item import EVERYBODY, Owner
from app.errors import TooLarge, TryLater
from app.settings.declaration import Settings

ONE = Owner("key-1", max_waiting_items=10)
OTHER = Owner("key-2")


class Clock:
    """Goes when it is told to."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def meter_of(tokens_per_s: float) -> RateMeter:
    """A meter that has measured this rate for ten seconds."""
    clock = Clock()
    meter = RateMeter(clock)
    meter.busy()
    for _ in range(10):
        clock.now += 1
        meter.observe(int(tokens_per_s))
    return meter


def gate(
    waiting: int = 0,
    cost: int = 10,
    rate: RateMeter | None = None,
    owners: tuple[Owner, ...] = (EVERYBODY,),
    **settings: Any,
) -> AdmissionGate:
    """A gate before a backlog in which each of the owners has so many items of this cost."""
    backlog = Backlog(quantum_tokens=4096)
    for owner in owners:
        run = make_run(waiting, owner=owner)
        backlog.add(run.flow, make_items(run, max_tokens=cost - 1))
    return AdmissionGate(Settings(**settings), backlog, rate or RateMeter())


# ---------------------------------------------------------------- the rate


def test_the_rate_is_unknown_before_anything_was_measured() -> None:
    meter = RateMeter(Clock())
    assert meter.tokens_per_s is None
    assert meter.seconds_for(1e9) == UNKNOWN_RETRY_S
    meter.busy()
    assert meter.tokens_per_s is None


def test_the_rate_is_tokens_over_time_with_work() -> None:
    meter = meter_of(200)
    assert meter.tokens_per_s == pytest.approx(200)
    assert meter.seconds_for(1000) == pytest.approx(5)


def test_idle_time_does_not_count() -> None:
    clock = Clock()
    meter = RateMeter(clock)
    for _ in range(3):
        meter.busy()
        clock.now += 1
        meter.observe(100)
        meter.done()
        clock.now += 3600
    assert meter.tokens_per_s == pytest.approx(100)


def test_the_rate_follows_a_change_within_a_minute() -> None:
    clock = Clock()
    meter = RateMeter(clock)
    meter.busy()
    for tokens in (*[100] * 60, *[500] * 60):
        clock.now += 1
        meter.observe(tokens)
    assert 450 < (meter.tokens_per_s or 0) < 500


def test_being_told_of_work_twice_does_not_lose_time() -> None:
    clock = Clock()
    meter = RateMeter(clock)
    meter.busy()
    clock.now += 1
    meter.busy()  # another batch
    clock.now += 1
    meter.observe(100)
    assert meter.tokens_per_s == pytest.approx(50)


def test_the_time_of_work_that_was_given_up_does_not_make_the_rate_look_slow() -> None:
    clock = Clock()
    meter = RateMeter(clock)
    for _ in range(3):
        meter.busy()
        clock.now += 1
        meter.observe(100)
        clock.now += 600  # a batch that is cancelled, or comes to its timeout
        meter.observe(0)
        meter.done()
    assert meter.tokens_per_s == pytest.approx(100)


# ---------------------------------------------------------------- what can never fit


def test_too_many_prompts_name_the_limit() -> None:
    gate(max_batch_items=3).check_size(3)
    with pytest.raises(
        TooLarge, match=r"more than 3 prompts, the most that are accepted in one \(--max-batch-items\)"
    ) as refused:
        gate(max_batch_items=3).check_size(4)
    assert (refused.value.status, refused.value.param, refused.value.code) == (413, "prompts", "batch_too_large")
    with pytest.raises(TooLarge, match=r"more than 2 prompts.*\(--max-waiting-items\)"):
        gate(max_batch_items=3, max_waiting_items=2).check_size(3)


def test_more_tokens_than_may_ever_wait_are_refused_for_good() -> None:
    with pytest.raises(TooLarge, match=r"may take 101 tokens, at most 100 .*\(--max-waiting-tokens\)") as refused:
        gate(max_waiting_tokens=100).check_room(1, 101)
    assert (refused.value.status, refused.value.retry_after_s, refused.value.headers) == (413, None, {})


def test_a_refusal_says_what_was_asked_for() -> None:
    asked = Asked("request", None, "lower max_tokens")
    refusals: tuple[Callable[[], None], ...] = (
        lambda: gate(max_waiting_items=3).check_size(4, asked=asked),
        lambda: gate().check_size(11, ONE, asked),
        lambda: gate(max_waiting_tokens=100).check_room(1, 101, asked),
    )
    for refusal in refusals:
        with pytest.raises(TooLarge, match=r"^the request ") as refused:
            refusal()
        assert (refused.value.param, refused.value.code) == (None, "request_too_large")


# ---------------------------------------------------------------- what may fit later


def test_what_fits_is_admitted() -> None:
    gate(waiting=6, max_waiting_items=10).check_room(4, 40)
    gate(waiting=6, max_waiting_tokens=100).check_room(1, 40)


def test_a_full_backlog_gives_the_time_until_there_is_room() -> None:
    with pytest.raises(TryLater) as refused:
        gate(waiting=10, cost=100, rate=meter_of(50), max_waiting_items=10).check_room(5, 500)
    error = refused.value
    assert (error.status, error.code, error.kind) == (429, "backlog_full", "rate_limit_error")
    assert error.retry_after_s == 10.0  # five items of 100 tokens at 50 a second
    assert error.headers == {"Retry-After": "10"}
    assert error.message.startswith("10 items with 1000 tokens are waiting, and there is no room for 5 more with 500")
    assert "--max-waiting-items 10" in error.message and "try again in about 10 s" in error.message


def test_tokens_count_as_well_as_items() -> None:
    with pytest.raises(TryLater) as refused:
        gate(waiting=10, cost=100, rate=meter_of(50), max_waiting_tokens=1100).check_room(1, 400)
    assert refused.value.retry_after_s == 6.0  # 300 tokens too many


def test_the_longer_of_both_waits_is_told() -> None:
    with pytest.raises(TryLater) as refused:
        limits = {"max_waiting_items": 10, "max_waiting_tokens": 1000}
        gate(waiting=10, cost=100, rate=meter_of(50), **limits).check_room(1, 1000)
    assert refused.value.retry_after_s == 20.0


def test_a_wait_is_at_least_a_second_and_unmeasured_a_guess() -> None:
    with pytest.raises(TryLater) as refused:
        gate(waiting=10, rate=meter_of(1e6), max_waiting_items=10).check_room(1, 10)
    assert refused.value.retry_after_s == 1.0
    with pytest.raises(TryLater) as refused:
        gate(waiting=10, max_waiting_items=10).check_room(1, 10)
    assert refused.value.retry_after_s == UNKNOWN_RETRY_S


def test_a_long_wait_is_capped_in_the_header_only() -> None:
    with pytest.raises(TryLater) as refused:
        gate(waiting=10, cost=1000, rate=meter_of(1), max_waiting_items=10).check_room(1, 10)
    assert (refused.value.retry_after_s, refused.value.headers) == (1000.0, {"Retry-After": "60"})


# ---------------------------------------------------------------- what one key may have waiting


def test_a_batch_of_more_items_than_a_key_may_have_can_never_fit() -> None:
    gate().check_size(10, ONE)
    gate().check_size(11, OTHER)
    with pytest.raises(TooLarge, match=r"has 11 prompts, and this API key may have 10 waiting") as refused:
        gate().check_size(11, ONE)
    assert (refused.value.param, refused.value.code) == ("prompts", "batch_too_large")


def test_a_key_may_fill_its_part_and_no_more() -> None:
    full = gate(waiting=6, owners=(ONE, OTHER))
    full.check_share(ONE, 4)
    full.check_share(OTHER, 1000)
    with pytest.raises(TryLater, match=r"has 6 items waiting, and may have 10 \(its max_waiting_items\)") as refused:
        full.check_share(ONE, 5)
    assert (refused.value.status, refused.value.code) == (429, "key_backlog_full")


def test_the_time_until_a_key_has_room_comes_from_the_rate_and_from_who_else_waits() -> None:
    for owners, wait_s in (((ONE,), 8.0), ((ONE, OTHER), 16.0)):
        with pytest.raises(TryLater) as refused:
            gate(waiting=10, cost=100, rate=meter_of(50), owners=owners).check_share(ONE, 4)
        assert refused.value.retry_after_s == wait_s  # four items of 100 tokens at 50 a second, or at half of that
    with pytest.raises(TryLater) as refused:
        gate(waiting=10, owners=(ONE,)).check_share(ONE, 4)
    assert refused.value.retry_after_s == UNKNOWN_RETRY_S
