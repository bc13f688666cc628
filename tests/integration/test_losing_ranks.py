"""Ranks that die, hang or choke: nothing accepted is lost, nobody waits for ever, and the ranks come back."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from tests.service import STAYS_DOWN, Json, Service, serving, until

PACE = {"step_ms": 10, "max_num_seqs": 4}
QUICK = ("--restart-backoff-s", "50ms", "--drain-timeout-s", "1")
TRIES = 5


@pytest.fixture
def replicas() -> Iterator[Service]:
    with serving(*QUICK, **PACE, crash_on="poison", choke_on="bone", hang_on="tar pit") as service:
        service.errors_expected = True
        yield service


@pytest.fixture
def lockstep() -> Iterator[Service]:
    with serving(*QUICK, **PACE, is_moe=True, crash_on="poison") as service:
        service.errors_expected = True
        yield service


@pytest.fixture(params=["replicas", "lockstep"])
def service(request: pytest.FixtureRequest) -> Service:
    found: Service = request.getfixturevalue(request.param)
    return found


def kill_rank(service: Service, number: int) -> None:
    os.kill(service.ranks()[number]["pid"], signal.SIGKILL)


def is_well(service: Service) -> bool:
    return service.health()["status"] == "ok"


def restart(service: Service, number: int) -> None:
    assert service.act(number, "restart").status_code == 202


def lives_again(service: Service, number: int) -> bool:
    """Whether it has been lost. It is down for less than a second, which nobody may happen to see; this stays."""
    return bool(service.ranks()[number]["incarnation"] == 2)


def is_ready_in(rank: Json, life: int) -> bool:
    return bool((rank["state"], rank["incarnation"]) == ("ready", life))


def assert_all_ok(answer: Json, count: int) -> None:
    assert answer["request_counts"] == {"total": count, "ok": count, "error": 0, "cancelled": 0, "timeout": 0}
    assert [result["index"] for result in answer["results"]] == list(range(count))


def test_a_killed_rank_costs_no_item_and_comes_back(service: Service) -> None:
    prompts = [f"item {index}" for index in range(8)]
    quiet = service.batch(prompts, sampling_params={"max_tokens": 40})  # 0.4 s; five times as many take two
    with service.begin(prompts * 5, sampling_params={"max_tokens": 40}) as batch:
        until(lambda: min(service.held) > 0, "they do not run")
        kill_rank(service, 1)
        until(lambda: lives_again(service, 1), "nobody noticed")
        answer = batch.answer()
    assert_all_ok(answer, 40)
    texts = [[result["outputs"][0]["text"] for result in each["results"]] for each in (quiet, answer)]
    assert len(set(texts[0])) == 8 and texts[0] * 5 == texts[1]
    assert {result["attempts"] for result in answer["results"]} == {1, 2}
    until(lambda: is_well(service), "it does not come back")
    rank = service.ranks()[1]
    assert (rank["restarts"], rank["restarts_by_cause"], rank["incarnation"]) == (1, {"died": 1}, 2)
    assert "SIGKILL" in rank["last_error"]
    assert service.metric("phalanx_groups_lost_total", kind="died") == 1
    assert service.metric("phalanx_items_requeued_total") == sum(r["attempts"] - 1 for r in answer["results"])
    assert service.is_idle()


def test_the_other_replica_serves_on() -> None:
    with serving(*STAYS_DOWN, "--drain-timeout-s", "1", **PACE) as service:
        service.errors_expected = True
        with service.begin(["a"] * 6, sampling_params={"max_tokens": 200}) as batch:  # three on each, for two seconds
            until(lambda: min(service.held) > 0, "they do not run")
            kill_rank(service, 1)
            until(lambda: not is_well(service), "nobody noticed")
            health = service.client.get("/health")
            assert (health.status_code, health.json()["status"]) == (200, "degraded")
            assert service.batch(["b"], sampling_params={"max_tokens": 1})["results"][0]["rank"] == 0
            restart(service, 1)  # what it held is tried there again, and nowhere else
            assert_all_ok(batch.answer(), 6)
        assert [rank["incarnation"] for rank in service.ranks()] == [1, 2]


def test_while_no_rank_is_ready_new_batches_are_told_so() -> None:
    with serving(*STAYS_DOWN, "--drain-timeout-s", "1", **PACE, is_moe=True) as service:
        service.errors_expected = True
        kill_rank(service, 0)
        until(lambda: service.health()["status"] == "unavailable", "nobody noticed")
        answer = service.post(["a"])
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_rank_ready")
        assert answer.headers["retry-after"]
        restart(service, 0)
        until(lambda: is_well(service), "it does not come back")
        assert {rank["incarnation"] for rank in service.ranks()} == {2}


def test_a_poisoned_item_is_found_and_everybody_else_succeeds(service: Service) -> None:
    prompts = [f"item {index}" for index in range(100)]
    prompts[7] = "a poisoned prompt"
    answer = service.batch(prompts, sampling_params={"max_tokens": 5})
    assert (answer["request_counts"]["ok"], answer["request_counts"]["error"]) == (99, 1)
    error = answer["results"][7]["error"]
    assert (error["code"], error["retryable"], error["param"]) == ("poisoned", False, "prompts[7]")
    assert service.metric("phalanx_items_poisoned_total") == 1
    restarts = max(rank["restarts"] for rank in service.ranks())
    assert restarts <= 1 * (5 + 1) + 1  # 24 in flight at most
    until(lambda: is_well(service), "it does not come back")


def test_an_engine_that_reports_its_death_is_quoted(replicas: Service) -> None:
    answer = replicas.batch(["a bone"], sampling_params={"max_tokens": 5})
    error = answer["results"][0]["error"]
    assert error["code"] == "poisoned" and "choked on a prompt with 'bone'" in error["message"]
    assert any("choked" in (rank["last_error"] or "") for rank in replicas.ranks())


def test_a_stalled_group_is_found_killed_and_its_work_done() -> None:
    with serving(*QUICK, "--stall-timeout-s", "1s", **PACE, hang_on="tar pit") as service:
        service.errors_expected = True
        with service.begin(["fine"] * 30, sampling_params={"max_tokens": 20}) as batch:
            answer = service.batch(["a tar pit"])
            assert_all_ok(batch.answer(), 30)
        assert answer["results"][0]["error"]["code"] == "poisoned"  # it hangs whatever runs it
        assert "stalled" in answer["results"][0]["error"]["message"]
        causes = [rank["restarts_by_cause"] for rank in service.ranks()]
        assert any(cause.get("stalled", 0) >= 2 for cause in causes)
        until(lambda: is_well(service), "it does not come back")


@pytest.mark.parametrize("is_moe", [False, True])
def test_a_frozen_rank_is_found_at_once_and_its_work_done(is_moe: bool) -> None:
    with serving(*QUICK, **PACE, is_moe=is_moe) as service:
        service.errors_expected = True
        with service.begin(["a"] * 40, sampling_params={"max_tokens": 40}) as batch:
            until(lambda: min(service.held) > 0, "they do not run")
            frozen = service.ranks()[0]["pid"]
            os.kill(frozen, signal.SIGSTOP)
            began = time.monotonic()
            until(lambda: lives_again(service, 0), "nobody noticed")
            assert time.monotonic() - began < 60  # stall_timeout_s is two minutes
            assert_all_ok(batch.answer(), 40)
        assert "was stopped" in service.ranks()[0]["last_error"]
        assert not psutil.pid_exists(frozen)
        until(lambda: is_well(service), "it does not come back")


def test_an_idle_rank_that_is_frozen_is_found_before_there_is_work_for_it() -> None:
    with serving(*QUICK, **PACE) as service:
        service.errors_expected = True
        frozen = service.ranks()[1]["pid"]
        os.kill(frozen, signal.SIGSTOP)
        until(lambda: lives_again(service, 1), "nobody noticed")
        assert "has not said a word" in service.ranks()[1]["last_error"]
        until(lambda: not psutil.pid_exists(frozen), "it is still there")
        until(lambda: is_well(service), "it does not come back")


def test_a_slow_group_is_left_alone() -> None:
    """A step in water is far below the timeout; one in mud is above it, and far below ten times one in water.

    Each batch is one step, and its end is progress by itself. Ten times the longest step holds once it was told of.
    """
    pace = {"step_ms": 600, "max_num_seqs": 4, "slow_on": "mud", "slow_factor": 6}
    with serving("--stall-timeout-s", "2.7s", dp_size=1, **pace) as service:
        assert_all_ok(service.batch(["water"], sampling_params={"max_tokens": 1}), 1)
        until(lambda: service.ranks()[0]["steps"] == 1, "it does not tell of its step")
        assert_all_ok(service.batch(["mud"], sampling_params={"max_tokens": 1}), 1)  # 3.6 s
        assert service.ranks()[0]["restarts"] == 0


def test_a_rank_that_stands_still_takes_only_its_own_metrics_with_it(replicas: Service) -> None:
    """It is waited for for 3 s, and lost after 5: on a machine that is busy with other things, before the answer."""
    for _ in range(TRIES):
        until(lambda: is_well(replicas), "it does not come back")
        before = replicas.ranks()[0]
        os.kill(before["pid"], signal.SIGSTOP)
        try:
            began = time.monotonic()
            text = replicas.client.get("/metrics").text
            took_s = time.monotonic() - began
        finally:
            with suppress(ProcessLookupError):  # it was lost, and is gone
                os.kill(before["pid"], signal.SIGCONT)
        after = replicas.ranks()[0]
        if (after["state"], after["incarnation"]) == ("ready", before["incarnation"]):
            break
    else:
        pytest.fail("the rank was lost before the metrics came")
    assert took_s < 10  # Prometheus gives up then
    assert 'phalanx_rank_state{rank="0",state="ready"}' in text
    assert 'simulated:engine_steps_total{engine="1"}' in text and 'engine="0"' not in text


def test_a_batchs_timeout_holds_while_its_items_are_on_trial() -> None:
    with serving(*QUICK, **PACE, is_moe=True, start_s=1) as service:
        service.errors_expected = True
        with service.begin(["a"] * 20, sampling_params={"max_tokens": 2000}, timeout_s=4) as batch:
            until(lambda: min(service.held) > 0, "they do not run")
            kill_rank(service, 0)
            answer = batch.answer()
        assert answer["request_counts"]["timeout"] == 20
        assert 4 <= answer["stats"]["wall_s"] < 20  # an item alone takes that long
        until(service.is_idle, "something of it stays behind")


def test_a_group_that_fails_too_often_stays_down_until_an_operator_says_otherwise() -> None:
    with serving(*QUICK, "--breaker-failures", "2", **PACE) as service:
        service.errors_expected = True
        for life in (1, 2, 3):
            until(lambda life=life: is_ready_in(service.ranks()[1], life), "it does not come back")
            kill_rank(service, 1)
        until(lambda: service.ranks()[1]["state"] == "broken", "the breaker does not open")
        health = service.health()
        assert health["status"] == "degraded"
        assert "rank 1 is broken (it failed 3 times within 600 s" in health["reason"]
        assert service.batch(["a"], sampling_params={"max_tokens": 1})["results"][0]["status"] == "ok"
        answer = service.client.post("/v1/ranks/1/restart")
        assert answer.status_code == 202
        until(lambda: is_well(service), "it does not come back")


def test_when_every_group_is_broken_what_waits_is_told_so() -> None:
    with serving(*QUICK, "--breaker-failures", "1", "--trial-restarts", "0", **PACE, crash_on="poison") as service:
        service.errors_expected = True
        answer = service.batch(["poison"] * 40, sampling_params={"max_tokens": 4})
        codes = {result["error"]["code"] for result in answer["results"]}
        assert codes <= {"rank_lost", "poisoned"} and "rank_lost" in codes
        assert "no rank is left" in next(
            r["error"]["message"] for r in answer["results"] if r["error"]["code"] == "rank_lost"
        )
        health = service.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "unavailable")
        assert {rank["state"] for rank in service.ranks()} == {"broken"}
        assert all(rank["last_error"] for rank in health.json()["ranks"])
        assert service.is_idle()
