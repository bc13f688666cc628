"""Before the ranks are ready: the gateway is up, says how far they are, and can be stopped."""

import signal

import jsonschema
import pytest

from tests.service import Service, starting, until

PATIENT = ("--stop-timeout-s", "600")  # a rank that has to be killed would show


def loading(service: Service) -> bool:
    return [rank["stage"] for rank in service.ranks()] == ["loading", "loading"]


def test_while_loading_requests_get_503_with_reason_stage_and_time() -> None:
    with starting(*PATIENT, start_s=600) as service:
        assert service.client.get("/health/live").status_code == 200
        assert service.client.head("/health/live").status_code == 200
        until(lambda: loading(service), "no rank is loading")
        answer = service.post(["a"])
        error = answer.json()["error"]
        assert (answer.status_code, answer.headers["retry-after"], error["retry_after_s"]) == (503, "5", 5.0)
        assert (error["type"], error["code"]) == ("service_unavailable_error", "no_rank_ready")
        assert "rank 0 is starting (stage loading); rank 1 is starting (stage loading)" in error["message"]
        for path in ("/health", "/health/ready"):
            assert service.client.head(path).status_code == 503
            answer = service.client.get(path)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            health = answer.json()
            assert (health["status"], health["ready_ranks"]) == ("unavailable", 0)
            assert "stage loading" in health["reason"] and health["error"]["code"] == "no_rank_ready"
            assert [rank["stage"] for rank in health["ranks"]] == ["loading", "loading"]
            components = service.client.get("/openapi.json").json()["components"]
            jsonschema.Draft202012Validator(components["schemas"]["Health"] | {"components": components}).validate(
                health
            )
        assert service.client.get("/metrics").status_code == 200
        assert service.client.get("/v1/models").json()["data"][0]["max_model_len"] is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_service_that_is_loading_can_be_stopped(number: signal.Signals) -> None:
    with starting(*PATIENT, start_s=600) as service:
        until(lambda: loading(service), "no rank is loading")
        service.signal(number)
        assert service.wait() == 0
        service.check_nothing_left()


def test_a_service_can_be_stopped_before_it_knows_its_ranks() -> None:
    with starting(*PATIENT, start_s=600) as service:
        service.signal()
        assert service.wait() == 0
        service.check_nothing_left()


def test_a_rank_that_blocks_its_loop_while_loading_can_be_stopped() -> None:
    with starting(*PATIENT, block_loop_s=600) as service:
        until(lambda: loading(service), "no rank is loading")
        service.signal()
        assert service.wait() == 0
        service.check_nothing_left()
