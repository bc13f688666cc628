"""Ranks that die: clear errors of items, health that says so, and no hang."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.service import Json, Service, serving, until

LONG = {"max_tokens": 8000}  # 80 s
PACE = {"step_ms": 10, "max_num_seqs": 4}


@pytest.fixture
def replicas() -> Iterator[Service]:
    with serving("--drain-timeout-s", "1", **PACE, crash_on="poison", choke_on="bone") as service:
        service.errors_expected = True
        yield service


@pytest.fixture
def lockstep() -> Iterator[Service]:
    with serving("--drain-timeout-s", "1", **PACE, is_moe=True) as service:
        service.errors_expected = True
        yield service


def kill_rank(service: Service, number: int) -> None:
    os.kill(service.ranks()[number]["pid"], signal.SIGKILL)


def lost(answer: Json) -> list[Json]:
    """The errors of items whose rank was lost."""
    errors = [result["error"] for result in answer["results"] if result["status"] == "error"]
    assert all((error["code"], error["retryable"]) == ("rank_lost", True) for error in errors)
    return errors


def test_the_others_of_replicas_serve_on(replicas: Service) -> None:
    with replicas.begin(["a"] * 40, sampling_params={"max_tokens": 40}) as batch:
        until(lambda: min(replicas.held) > 0, "they do not run")
        kill_rank(replicas, 1)
        answer = batch.answer()
    errors = lost(answer)
    assert 0 < len(errors) <= 12 and answer["request_counts"]["ok"] == 40 - len(errors)
    assert "SIGKILL" in errors[0]["message"]
    assert {result["rank"] for result in answer["results"] if result["status"] == "ok"} >= {0}

    health = replicas.client.get("/health")
    assert (health.status_code, health.json()["status"], health.json()["ready_ranks"]) == (200, "degraded", 1)
    assert "rank 1 is failed" in health.json()["reason"] and "SIGKILL" in health.json()["reason"]
    rank = replicas.ranks()[1]
    assert (rank["state"], rank["held"], rank["credit"]) == ("failed", 0, 0)
    assert "SIGKILL" in rank["last_error"]
    after = replicas.batch(["a"] * 10, sampling_params={"max_tokens": 2})
    assert {result["rank"] for result in after["results"]} == {0} and after["request_counts"]["ok"] == 10
    assert replicas.client.get("/metrics").status_code == 200


def test_when_all_replicas_are_gone_nothing_hangs(replicas: Service) -> None:
    with replicas.begin(["a"] * 60, sampling_params=LONG) as batch:
        until(lambda: min(replicas.held) > 0, "they do not run")
        kill_rank(replicas, 0)
        kill_rank(replicas, 1)
        answer = batch.answer()
    assert len(lost(answer)) == 60  # those that only waited, too
    assert_unavailable(replicas)


def test_a_prompt_that_crashes_a_rank_takes_only_what_runs_there(replicas: Service) -> None:
    answer = replicas.batch(["a poisoned prompt", *["fine"] * 40], sampling_params={"max_tokens": 5})
    errors = lost(answer)
    assert answer["results"][0]["error"] in errors
    assert answer["request_counts"]["ok"] == 41 - len(errors) >= 20
    assert replicas.health()["status"] == "degraded"


def test_an_engine_that_reports_its_death_is_quoted(replicas: Service) -> None:
    answer = replicas.batch(["a bone"], sampling_params={"max_tokens": 5})
    assert "choked on a prompt with 'bone'" in lost(answer)[0]["message"]
    rank = next(rank for rank in replicas.ranks() if rank["state"] == "failed")
    assert "choked" in rank["last_error"]
    assert any("choked" in line for line in rank["log_tail"])


def test_a_rank_that_stands_still_takes_only_its_own_metrics_with_it(replicas: Service) -> None:
    stopped = replicas.ranks()[0]["pid"]
    os.kill(stopped, signal.SIGSTOP)
    try:
        began = time.monotonic()
        text = replicas.client.get("/metrics").text
        took_s = time.monotonic() - began
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert took_s < 8  # Prometheus gives up after 10
    assert 'phalanx_rank_state{rank="0",state="ready"}' in text
    assert 'simulated:engine_steps_total{engine="1"}' in text and 'engine="0"' not in text


def test_a_lockstep_group_dies_as_one(lockstep: Service) -> None:
    assert [rank["group_kind"] for rank in lockstep.ranks()] == ["lockstep", "lockstep"]
    with lockstep.begin(["a"] * 60, sampling_params=LONG) as batch:
        until(lambda: min(lockstep.held) > 0, "they do not run")
        kill_rank(lockstep, 1)
        answer = batch.answer()
    assert len(lost(answer)) == 60
    assert_unavailable(lockstep)
    assert all("SIGKILL" in rank["last_error"] for rank in lockstep.ranks())
    until(lambda: len(lockstep.processes()) == 1, "the group's processes are still there")  # the gateway


def assert_unavailable(service: Service) -> None:
    health = service.client.get("/health")
    assert (health.status_code, health.json()["status"], health.json()["ready_ranks"]) == (503, "unavailable", 0)
    answer = service.post(["a"])
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_rank_ready")
    assert "is failed" in answer.json()["error"]["message"] and answer.headers["retry-after"]
    assert {rank["state"] for rank in service.ranks()} == {"failed"}
    assert service.is_idle()
    assert service.client.get("/health/live").status_code == 200
