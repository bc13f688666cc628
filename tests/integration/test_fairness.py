"""Who goes first, and on which rank: shares by tokens between batches, priorities, and how ranks are chosen."""

from collections.abc import Iterator

import pytest

from tests.service import Service, serving, until


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """Each rank runs eight sequences and makes a step in 2 ms: 2,000 items of four tokens a second."""
    flags = ("--prefetch", "2", "--fairness-quantum-tokens", "512", "--drain-timeout-s", "1")
    with serving(*flags, step_ms=2, max_num_seqs=8) as service:
        yield service


@pytest.fixture(autouse=True)
def idle_again(service: Service) -> Iterator[None]:
    yield
    until(service.is_idle, "something is still there")


def test_a_small_batch_behind_a_large_one_is_back_long_before_it(service: Service) -> None:
    with service.begin(["a"] * 20_000, sampling_params={"max_tokens": 4}):
        until(lambda: service.backlog > 0, "the large batch does not wait")
        small = service.batch(["b"] * 20, sampling_params={"max_tokens": 4})
        assert service.backlog > 10_000
    assert small["request_counts"]["ok"] == 20


def test_a_lower_priority_value_goes_first_however_late_it_comes(service: Service) -> None:
    params = {"max_tokens": 50}
    with service.begin(["a"] * 2000, sampling_params=params, priority=10):
        until(lambda: service.backlog > 0, "the patient batch does not wait")
        urgent = service.batch(["b"] * 200, sampling_params=params)
        assert service.backlog > 1500
    assert urgent["request_counts"]["ok"] == 200


def test_a_higher_priority_value_waits_until_nothing_else_does(service: Service) -> None:
    params = {"max_tokens": 50}
    with (
        service.begin(["a"] * 200, sampling_params=params) as normal,
        service.begin(["b"] * 20, sampling_params=params, priority=1) as patient,
    ):
        until(lambda: service.metric("phalanx_active_batches") == 2, "they are not under way")
        queued_s = {"normal": normal.answer()["stats"], "patient": patient.answer()["stats"]}
    # The patient one's first item left the backlog when the normal one's last had: after most of its time.
    assert queued_s["patient"]["queue_s"] > 0.5 * queued_s["normal"]["wall_s"]


def test_turns_between_equal_batches_are_counted_in_tokens_and_not_in_items(service: Service) -> None:
    with (
        service.begin(["a"] * 2000, sampling_params={"max_tokens": 2}) as short,
        service.begin(["b"] * 200, sampling_params={"max_tokens": 29}) as long,
    ):
        walls = [batch.answer()["stats"]["wall_s"] for batch in (short, long)]
    # With a prompt token each, 6,000 tokens both. One after the other it were 0.4, item for item 0.6.
    assert min(walls) > 0.75 * max(walls)


def test_round_robin_deals_items_out_evenly(service: Service) -> None:
    answer = service.batch(["a"] * 400, sampling_params={"max_tokens": 2})
    ranks = [result["rank"] for result in answer["results"]][:20]
    assert ranks in ([0, 1] * 10, [1, 0] * 10)
    shares = [share["items"] for share in answer["stats"]["ranks"]]
    assert min(shares) > 0.5 * max(shares)  # from then on, who is done first gets the next one


def test_least_loaded_looks_at_tokens() -> None:
    large = {"prompt": "a", "sampling_params": {"max_tokens": 400}}
    with serving("--dispatch", "least_loaded", step_ms=1, max_num_seqs=64) as service:
        answer = service.batch([large, *["b"] * 20], sampling_params={"max_tokens": 10})
    assert answer["request_counts"]["ok"] == 21
    first, *others = [result["rank"] for result in answer["results"]]
    assert first == 0 and set(others) == {1}
