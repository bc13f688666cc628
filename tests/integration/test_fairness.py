"""Who goes first, and on which rank: shares by tokens between batches, priorities, and how ranks are chosen."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.service import Json, Service, serving, until


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """Each rank runs eight sequences and makes a step in 2 ms: 2,000 items of four tokens a second."""
    flags = ("--prefetch", "2", "--fairness-quantum-tokens", "512", "--drain-timeout-s", "1")
    with serving(*flags, "--log-level", "debug", step_ms=2, max_num_seqs=8) as service:
        yield service


@pytest.fixture(autouse=True)
def idle_again(service: Service) -> Iterator[None]:
    yield
    until(service.is_idle, "something is still there")


def dispatched_after_a_wait(service: Service, *batches: Json) -> list[list[int]]:
    """For each batch, at which turns its items left the backlog. All were there when the first of them left."""
    with ExitStack() as stack:
        blocker = stack.enter_context(service.begin(["z"] * 64, sampling_params={"max_tokens": 8000}, priority=-1))
        until(lambda: service.backlog > 0, "the ranks are not full")
        pending = [stack.enter_context(service.begin(**batch)) for batch in batches]
        until(lambda: service.metric("phalanx_active_batches") == 1 + len(batches), "they do not wait")
        blocker.hang_up()
        ids = [batch.answer()["id"] for batch in pending]
    left = [fact["batch"] for fact in service.facts("item_dispatched")]
    return [[turn for turn, batch in enumerate(left) if batch == one] for one in ids]


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
        assert service.backlog > 1000
    assert urgent["request_counts"]["ok"] == 200


def test_a_higher_priority_value_waits_until_nothing_else_does(service: Service) -> None:
    params = {"max_tokens": 4}
    patient = {"prompts": ["a"] * 20, "sampling_params": params, "priority": 1}
    normal = {"prompts": ["b"] * 200, "sampling_params": params}
    patient_turns, normal_turns = dispatched_after_a_wait(service, patient, normal)
    assert (len(patient_turns), len(normal_turns)) == (20, 200)
    assert min(patient_turns) > max(normal_turns)


def test_turns_between_equal_batches_are_counted_in_tokens_and_not_in_items(service: Service) -> None:
    short = {"prompts": ["a"] * 2000, "sampling_params": {"max_tokens": 2}}
    long = {"prompts": ["b"] * 200, "sampling_params": {"max_tokens": 29}}
    for one, other in itertools.permutations(dispatched_after_a_wait(service, short, long)):
        # With a prompt token each, 6,000 tokens both: when one has left the backlog, most of the other has, too.
        assert sum(turn < max(one) for turn in other) > 0.75 * len(other)


def test_round_robin_deals_items_out_evenly(service: Service) -> None:
    answer = service.batch(["a"] * 400, sampling_params={"max_tokens": 2})
    ranks = [result["rank"] for result in answer["results"]][:20]
    assert ranks in ([0, 1] * 10, [1, 0] * 10)
    shares = [share["items"] for share in answer["stats"]["ranks"]]
    assert min(shares) >= 10  # from then on, who is done first gets the next one


def test_least_loaded_looks_at_tokens() -> None:
    large = {"prompt": "a", "sampling_params": {"max_tokens": 400}}
    with serving("--dispatch", "least_loaded", step_ms=1, max_num_seqs=64) as service:
        answer = service.batch([large, *["b"] * 20], sampling_params={"max_tokens": 10})
    assert answer["request_counts"]["ok"] == 21
    first, *others = [result["rank"] for result in answer["results"]]
    assert first == 0 and set(others) == {1}


def test_near_the_end_the_longest_leave_first_and_the_answer_says_what_that_gained(service: Service) -> None:
    short = {"prompt": "a", "sampling_params": {"max_tokens": 4}}
    long = {"prompt": "b", "sampling_params": {"max_tokens": 200}}
    answer = service.batch([*[short] * 600, long])
    assert answer["request_counts"]["ok"] == 601
    assert answer["stats"]["order_gain_s"] > 0
    alike = service.batch(["a"] * 600, sampling_params={"max_tokens": 4})
    assert "order_gain_s" not in alike["stats"]


def test_prompts_that_begin_alike_meet_on_one_rank() -> None:
    prompts = [f"{group} " * 800 + str(number) for number in range(30) for group in range(6)]
    with serving("--dispatch", "prefix", step_ms=1, max_num_seqs=8) as service:
        answer = service.batch(prompts, sampling_params={"max_tokens": 4})
    assert answer["request_counts"]["ok"] == 180
    places = [{result["rank"] for result in answer["results"][group::6]} for group in range(6)]
    assert sum(len(ranks) for ranks in places) <= 7, "the last group may be shared, when a rank has nothing else"
