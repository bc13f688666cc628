"""How the service ends: in order, within its deadlines, and leaving nothing."""

import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from datetime import datetime

import pytest

from tests.service import COMMAND, DEADLINE_S, Service, serving, until

PACE = {"step_ms": 10, "max_num_seqs": 4}


def answered_tokens(service: Service) -> float:
    """Of items that have run. Unlike the number of those that run or wait, it never becomes less."""
    return service.metric("phalanx_completion_tokens_total")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_runs_is_finished_and_nothing_new_is_let_in(number: signal.Signals) -> None:
    """A client that has work for longer, and goes away in the end, keeps it from ending before all that was seen."""
    with serving("--drain-timeout-s", "600", **PACE) as service:
        with service.begin(["for long"], sampling_params={"max_tokens": 8000}):
            until(lambda: sum(service.held) == 1, "it does not run")
            with service.begin(["a"] * 40, sampling_params={"max_tokens": 30}) as batch:
                until(lambda: answered_tokens(service) > 0, "it does not run")
                service.signal(number)
                until(lambda: service.health()["status"] == "unavailable", "it does not drain")
                answer = service.post(["b"])
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
                assert service.health()["reason"] == "the service is shutting down"
                assert batch.answer()["request_counts"]["ok"] == 40
        assert service.wait() == 0
        service.check_nothing_left()


def test_past_the_deadline_the_rest_is_told_so() -> None:
    with serving("--drain-timeout-s", "2", **PACE) as service:
        quick = {"prompt": "a", "sampling_params": {"max_tokens": 1}}
        with service.begin([quick] * 4 + ["b"] * 40, sampling_params={"max_tokens": 8000}) as batch:
            until(lambda: answered_tokens(service) == 4, "it does not run")
            service.signal()
            answer = batch.answer()
        assert service.wait() == 0  # the items would take minutes
        service.check_nothing_left()
    assert answer["request_counts"] == {"total": 44, "ok": 4, "error": 40, "cancelled": 0, "timeout": 0}
    errors = [result["error"] for result in answer["results"][4:]]
    assert {(error["code"], error["retryable"]) for error in errors} == {("shutting_down", True)}


def test_a_second_signal_does_not_wait() -> None:
    with serving("--drain-timeout-s", "600", **PACE) as service:
        with service.begin(["a"] * 40, sampling_params={"max_tokens": 8000}) as batch:
            until(lambda: service.backlog > 0, "it does not run")
            service.signal(signal.SIGINT)
            until(lambda: service.health()["status"] == "unavailable", "it does not drain")
            service.signal(signal.SIGINT)
            answer = batch.answer()
        assert service.wait() == 0
        service.check_nothing_left()
        took = logged_at(service, "stopped") - logged_at(service, "second_signal")
        assert took.total_seconds() < 8  # a rank is given 20 to stop, and 10 more for what it leaves
    assert {result["error"]["code"] for result in answer["results"]} == {"shutting_down"}


def test_nothing_outlives_a_gateway_that_is_killed() -> None:
    with serving(**PACE) as service:
        assert len(service.processes()) == 5  # the gateway, and a guardian and a rank twice
        service.signal(signal.SIGKILL)
        service.wait()
        until(lambda: service.processes() == [], "something is left")


# The real gateway, which trips over its feet.
TRIPPING = """
import sys
import app.http.server
from app.gateway import Gateway
from phalanx.cli import main

class Tripping(Gateway):
    async def STEP(self):
        await super().STEP()
        raise RuntimeError("tripped over its feet")

app.http.server.Gateway = Tripping
sys.exit(main())
"""


@pytest.mark.parametrize("step", ["drain", "stop"])
def test_an_end_that_fails_is_no_success(step: str) -> None:
    code = TRIPPING.replace("STEP", step)
    with serving(**PACE, program=(sys.executable, "-c", code)) as service:
        service.errors_expected = True
        service.signal()
        assert service.wait() == 1
        (failure,) = service.facts("task_failed", task=step)
        assert f"in {step}" in failure["exception"]
        assert service.facts("stopped", exit_code=1)
        assert f"phalanx: {step}: RuntimeError" in service.log
        until(lambda: service.processes() == [], "something is left")


# ---------------------------------------------------------------- not starting at all


def serve(*flags: str, **variables: str) -> tuple[int, str]:
    """Exit code and stderr of a service that should not come up."""
    command = [COMMAND, "serve", "--engine", "simulated", "--port", "0", "--log-level", "error", *flags]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)
    return ended.returncode, ended.stderr


@pytest.mark.parametrize(
    ("flags", "variables", "said"),
    [
        (["--no-such-flag"], {}, "--no-such-flag is no flag of `phalanx serve`"),
        (["--dp-size", "0"], {}, "--dp-size (PHALANX_DP_SIZE) is 0: it must be at least 1"),
        ([], {"PHALANX_DP_SIZ": "2"}, "PHALANX_DP_SIZ is no variable of Phalanx"),
        (["--model", "/no/such/folder"], {}, "/no/such/folder: there is no such folder"),
        (["--engine-args", '{"fail_config": "no such luck"}'], {}, "no such luck"),
        (["--engine-args", '{"step_mss": 1}'], {}, "step_mss"),
    ],
)
def test_wrong_settings_end_it_with_one_sentence(flags: list[str], variables: dict[str, str], said: str) -> None:
    code, stderr = serve(*flags, **variables)
    assert code == 2
    assert said in stderr and "Traceback" not in stderr
    sentences = [line for line in stderr.splitlines() if line.startswith("phalanx: ")]
    assert len(sentences) == 1


def test_a_port_in_use_ends_it_with_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, stderr = serve("--port", port)
    assert (code, stderr.count("\n")) == (2, 1)
    assert f"is {port}: another process listens there" in stderr


def test_ranks_that_cannot_start_end_it_with_the_tail_of_a_log() -> None:
    code, stderr = serve("--engine-args", '{"crash_at_start": true}')
    assert code == 1
    assert "could not start: its process was ended by SIGKILL" in stderr and "Traceback" not in stderr


def test_bodies_that_are_not_there_yet_are_not_waited_for() -> None:
    """By the gateway's own clock, for it is the ranks that take their time to end on a machine that is busy."""
    with serving("--drain-timeout-s", "2", "--body-timeout-s", "10m", **PACE) as service, ExitStack() as many:
        clients = [
            many.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=DEADLINE_S))
            for _ in range(20)
        ]
        for client in clients:
            client.sendall(
                b"POST /v1/batch_generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100\r\n\r\n{"
            )
        until(lambda: service.metric("phalanx_held_bytes") == 20, "the bodies are not being read")
        service.signal()
        assert all(b"HTTP/1.1 503 " in client.recv(65536) for client in clients)
        assert service.wait() == 0
        service.check_nothing_left()
        took = logged_at(service, "http_closed") - logged_at(service, "draining")
        assert took.total_seconds() < 8  # the server gives up on connections after 10


def logged_at(service: Service, name: str) -> datetime:
    return datetime.fromisoformat(service.facts(name)[0]["timestamp"])
