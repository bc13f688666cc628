"""Drain and restart by hand: under load, without losing an item."""

import threading
from collections.abc import Iterator

import pytest

from tests.service import Json, Service, serving, starting, until

PACE = {"step_ms": 5, "max_num_seqs": 8}


@pytest.fixture(params=[False, True], ids=["replicas", "lockstep"])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    with serving("--drain-timeout-s", "20", **PACE, is_moe=request.param) as running:
        yield running


def state(service: Service, rank: int) -> str:
    return str(service.ranks()[rank]["state"])


def act(service: Service, rank: int, what: str) -> Json:
    answer = service.act(rank, what)
    assert answer.status_code == 202, answer.text
    found: Json = answer.json()
    return found


def test_a_rolling_restart_under_load_loses_nothing(service: Service) -> None:
    answers: list[Json] = []
    statuses: list[int] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            statuses.append(service.post(["short"], sampling_params={"max_tokens": 2}).status_code)

    client = threading.Thread(target=ask)
    with service.begin([f"item {index}" for index in range(400)], sampling_params={"max_tokens": 40}) as batch:
        until(lambda: min(service.held) > 0, "they do not run")
        client.start()
        groups = {rank["group"] for rank in service.ranks()}
        for rank in sorted(groups):
            assert act(service, rank, "drain")["state"] == "draining"
            act(service, rank, "restart")
            until(lambda rank=rank: service.ranks()[rank]["incarnation"] == 2, "it is not started anew")
            until(lambda rank=rank: state(service, rank) == "ready", "it does not come back")
        answers.append(batch.answer())
    done.set()
    client.join()
    assert answers[0]["request_counts"]["ok"] == 400
    assert {result["attempts"] for result in answers[0]["results"]} == {1}, "a drained rank finishes what it holds"
    if len(groups) == 2:
        assert set(statuses) == {200}, "with two replicas it never stops serving"
    assert {tuple(rank["restarts_by_cause"].items()) for rank in service.ranks()} == {(("ended", 1),)}
    assert all(rank["last_error"] is None for rank in service.ranks())


def test_a_drained_rank_takes_nothing_until_it_is_restarted() -> None:
    with serving(**PACE) as service:
        act(service, 0, "drain")
        assert state(service, 0) == "draining"
        answer = service.batch(["a"] * 40, sampling_params={"max_tokens": 2})
        assert {result["rank"] for result in answer["results"]} == {1}
        assert service.health()["status"] == "degraded"
        act(service, 0, "drain")  # twice is as good as once
        act(service, 0, "restart")
        until(lambda: service.health()["status"] == "ok", "it does not come back")


def test_what_is_not_finished_by_the_deadline_runs_elsewhere() -> None:
    with serving("--drain-timeout-s", "500ms", **PACE) as service:
        with service.begin(["a"] * 8, sampling_params={"max_tokens": 400}) as batch:  # two seconds
            until(lambda: min(service.held) > 0, "they do not run")
            act(service, 0, "restart")
            answer = batch.answer()
        assert answer["request_counts"]["ok"] == 8
        assert {result["attempts"] for result in answer["results"]} == {1, 2}


def test_a_rank_that_loads_can_be_started_anew_and_not_drained() -> None:
    with starting(**PACE, start_s=4) as service:
        until(lambda: state(service, 0) == "starting", "it is not started")
        answer = service.client.post("/v1/ranks/0/drain")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "rank_not_ready")
        act(service, 0, "restart")
        until(lambda: service.ranks()[0]["incarnation"] == 2, "it is not started anew")
        until(lambda: service.health()["status"] == "ok", "it does not come back")
        assert [rank["incarnation"] for rank in service.ranks()] == [2, 1]


def test_restarts_in_quick_succession_end_well() -> None:
    """One of them comes while the rank's process is being spawned."""
    with serving(**PACE) as service:
        for _ in range(60):
            act(service, 0, "restart")
        until(lambda: service.health()["status"] == "ok", "it does not come back")
        assert service.batch(["a"], sampling_params={"max_tokens": 1})["request_counts"]["ok"] == 1


def test_ranks_that_are_not_there_are_404() -> None:
    with serving(**PACE) as service:
        for what in ("drain", "restart"):
            answer = service.client.post(f"/v1/ranks/7/{what}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "rank_not_found")
