"""The log of a running service: one line a fact, found by ids."""

from collections.abc import Iterator

import pytest

from tests.service import Json, Service, serving, until


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """Two ranks that take their time, and a gateway that says everything."""
    with serving("--log-level", "debug", step_ms=2, max_num_seqs=4, crash_on="boom") as running:
        yield running


def tail_with(service: Service, rank: int, fact: str) -> list[str]:
    """The rank's last lines, once this fact is among them: its guardian files them a little later."""

    def look() -> list[str]:
        tail: list[str] = service.client.get(f"/v1/ranks/{rank}").json()["log_tail"]
        return tail if any(fact in line for line in tail) else []

    return until(look, f"{fact} is not in its log")


def test_a_batch_is_told_by_two_facts_with_the_ids_of_its_answer(service: Service) -> None:
    answer = service.post(["a", {"prompt": 5}, "b"], sampling_params={"max_tokens": 3}, priority=2, timeout_s=100)
    batch, request_id = answer.json()["id"], answer.headers["X-Request-ID"]
    (admitted,) = service.facts("batch_admitted", batch=batch)
    (ended,) = service.facts("batch_ended", batch=batch)
    assert admitted["request_id"] == ended["request_id"] == request_id
    expected = {"items": 2, "refused": 1, "priority": 2, "timeout_s": 100.0, "level": "info"}
    assert expected.items() <= admitted.items()
    usage = answer.json()["usage"]
    counts = {"ok": 2, "error": 1, "cancelled": 0, "timeout": 0, "completion_tokens": usage["completion_tokens"]}
    assert counts.items() <= ended.items()
    assert ended["wall_s"] >= ended["queue_s"] >= 0
    assert ended["ranks"] == [share["rank"] for share in answer.json()["stats"]["ranks"]]


def test_items_are_told_at_level_debug(service: Service) -> None:
    batch = service.batch(["a", {"prompt": 5}], sampling_params={"max_tokens": 3})["id"]
    (sent,) = service.facts("item_dispatched", batch=batch)
    first, second = service.facts("item_ended", batch=batch)
    assert {"index": 0, "incarnation": 1, "attempt": 1, "level": "debug"}.items() <= sent.items()
    assert {"index": 1, "status": "error", "code": "invalid_prompt", "rank": None}.items() <= first.items()
    assert {"index": 0, "status": "ok", "code": None, "rank": sent["rank"], "attempts": 1}.items() <= second.items()


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"prompts": ["a"], "sampling_params": {"temperature": "hot-canary"}}, 400, "invalid_sampling_params", "T"),
        ({"prompts": ["a"], "hot-canary": 5}, 400, "invalid_request", "?"),
        ({"prompts": ["a"], "model": "hot-canary"}, 404, "model_not_found", "model"),
        ({"prompts": "hot-canary"}, 400, "invalid_request", "prompts"),
    ],
)
def test_a_refusal_says_what_and_where_and_not_which_value(
    body: Json, status: int, code: str, param: str, service: Service
) -> None:
    answer = service.client.post("/v1/batch_generate", json=body)
    assert "hot-canary" in answer.text or param in ("T", "prompts")
    (refused,) = service.facts("request_refused", request_id=answer.headers["X-Request-ID"])
    place = "sampling_params.temperature" if param == "T" else param
    assert (refused["status"], refused["code"], refused["param"]) == (status, code, place)
    assert refused["route"] == "/v1/batch_generate"
    assert "hot-canary" not in service.log


def test_a_path_that_is_none_is_refused_without_naming_it(service: Service) -> None:
    request_id = service.client.get("/v1/hot-canary").headers["X-Request-ID"]
    (refused,) = service.facts("request_refused", request_id=request_id)
    assert (refused["status"], refused["route"], refused["method"]) == (404, "other", "GET")
    assert "hot-canary" not in service.log


def test_a_client_that_goes_away_is_told_and_so_is_the_end_of_its_batch(service: Service) -> None:
    with service.begin(["long"] * 40, sampling_params={"max_tokens": 8000}):
        until(lambda: sum(service.held) > 0, "it does not run")
    gone = until(lambda: service.facts("client_disconnected", items=40), "nobody notices")[0]
    ended = until(lambda: service.facts("batch_ended", batch=gone["batch"]), "it does not end")[0]
    assert gone["request_id"] == ended["request_id"]
    assert ended["cancelled"] + ended["ok"] == 40


def test_a_ranks_own_facts_are_in_its_log_and_can_be_asked_for(service: Service) -> None:
    tail = tail_with(service, 1, '"event":"rank_serving"')
    assert all('"rank":1,"incarnation":1' in line for line in tail)


def test_for_people_the_ranks_write_plain_lines() -> None:
    with serving("--log-format", "auto", dp_size=1) as service:
        (line,) = [line for line in tail_with(service, 0, "rank_serving") if "rank_serving" in line]
        assert "rank=0" in line and not line.startswith("{")


def test_an_item_that_crashes_its_engine_is_told(service: Service) -> None:
    service.errors_expected = True
    batch = service.batch(["boom"])["id"]
    (poisoned,) = service.facts("item_poisoned", batch=batch)
    assert {"index": 0, "level": "warning"}.items() <= poisoned.items()
    lost = service.facts("item_lost", batch=batch)
    assert [fact["attempt"] for fact in lost] == [1]  # the second time it was convicted
    assert [fact["incarnation"] for fact in lost] == [1]
    assert sorted(fact["incarnation"] for fact in service.facts("rank_lost")) == [1, 2]
