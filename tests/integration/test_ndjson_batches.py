"""Batches whose body is NDJSON: they run while it still comes, and it may be larger than what the gateway holds."""

import http.client
import json
import time
from collections.abc import Iterable, Iterator

import httpx
import pytest

from tests.service import BATCH, DEADLINE_S, Json, Service, serving, until
from tests.stream_client import PROGRESS, RESULT, SUMMARY, results_of

FLAGS = (
    "--stream-window-bytes",
    "100000",
    "--max-waiting-items",
    "1000",
    "--max-held-bytes",
    "16MiB",
    "--max-spool-bytes",
    "32MiB",
    "--send-timeout-s",
    "1",
    "--body-timeout-s",
    "2",
    "--keepalive-s",
    "50ms",
)
TYPE = {"Content-Type": "application/x-ndjson"}
ERROR = "batch_generation.error"
SHORT = {"max_tokens": 3}
LONG = {"max_tokens": 8000}  # 80 s


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving(*FLAGS, step_ms=10, max_num_seqs=64) as service:
        yield service
        check_let_go(service)


def check_let_go(service: Service) -> None:
    """Nothing is left on the ranks, in memory or on disk."""
    until(service.is_idle, "something is still there")
    until(lambda: service.metric("phalanx_held_bytes") == 0, "memory is held")
    until(lambda: service.metric("phalanx_spool_bytes") == 0, "something is kept on disk")


def options(**fields: object) -> bytes:
    return json.dumps({"object": "batch_generation.options", **fields}).encode() + b"\n"


def lines_of(answer: bytes) -> list[Json]:
    return [json.loads(line) for line in answer.splitlines()]


def post(service: Service, body: bytes | Iterable[bytes], **headers: str) -> httpx.Response:
    """As httpx does it: nothing of the answer is read before all has been sent."""
    return httpx.post(service.url + BATCH, content=body, headers=TYPE | headers, timeout=DEADLINE_S)


class Sender:
    """A client that sends its lines by and by, and reads when it likes."""

    def __init__(self, service: Service) -> None:
        self._connection = http.client.HTTPConnection(service.host, service.port, timeout=DEADLINE_S)
        self._connection.putrequest("POST", BATCH)
        self._connection.putheader("Content-Type", TYPE["Content-Type"])
        self._connection.putheader("Transfer-Encoding", "chunked")
        self._connection.endheaders()

    def send(self, data: bytes) -> None:
        self._connection.send(b"%x\r\n%b\r\n" % (len(data), data))

    def answer(self) -> Iterator[Json]:
        with self._connection.getresponse() as response:
            assert response.status == 200, response.read()
            while line := response.readline():
                yield json.loads(line)

    def close(self) -> None:
        self._connection.close()


def test_each_line_has_a_result_and_a_broken_one_its_own_error(service: Service) -> None:
    body = options(sampling_params=SHORT, return_prompt=True) + (
        b'"first"\r\n\n{"custom_id": "x", "prompt": [1, 2]}\n"open\n{"custom_id": "half", "prompt": "\\ud83d"}\n"last"'
    )
    answer = post(service, body)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    results = sorted(results_of(lines_of(answer.content), 5), key=lambda result: int(result["index"]))
    assert [result["status"] for result in results] == ["ok", "ok", "error", "error", "ok"]
    assert [result["custom_id"] for result in results] == [None, "x", None, "half", None]
    assert [result["prompt"] for result in results] == ["first", [1, 2], None, None, "last"]
    assert results[0]["usage"]["completion_tokens"] == 3
    assert results[2]["error"]["code"] == "invalid_prompt"
    assert results[2]["error"]["message"].startswith("line 5 is not valid JSON")


def test_items_run_and_are_answered_while_the_body_still_comes(service: Service) -> None:
    sender = Sender(service)
    sender.send(options(sampling_params=SHORT) + b'"a"\n')
    answer = sender.answer()
    assert next(line for line in answer if line["object"] == RESULT)["index"] == 0
    sender.send(b'"b"\n')
    assert next(line for line in answer if line["object"] == RESULT)["index"] == 1
    sender.send(b"")
    *_, last = answer
    assert (last["object"], last["request_counts"]["ok"]) == (SUMMARY, 2)
    sender.close()


def test_a_client_that_reads_nothing_before_it_has_sent_everything(service: Service) -> None:
    """Body and results are each larger than what is held or waits in the kernel, and it takes longer than a client has
    to read what is sent."""
    count, began = 12_000, time.monotonic()

    def body() -> Iterator[bytes]:
        yield options(sampling_params={"max_tokens": 1}, return_prompt=True)
        for start in range(0, count, 1000):
            yield b"".join(b'"%d %b"\n' % (index, b"x" * 1400) for index in range(start, start + 1000))
            time.sleep(0.1)

    answer = post(service, body())
    assert time.monotonic() - began > 1.0
    results = results_of(lines_of(answer.content), count)
    assert {result["status"] for result in results} == {"ok"}


def test_a_client_that_goes_away_within_its_body_gives_its_batch_up(service: Service) -> None:
    sender = Sender(service)
    sender.send(options(sampling_params=LONG) + b'"a"\n' * 50)
    until(lambda: sum(service.held), "it does not run")
    sender.close()
    until(service.is_idle, "it runs on")


def test_its_time_begins_with_the_end_of_the_body(service: Service) -> None:
    sender = Sender(service)
    sender.send(options(sampling_params=LONG, timeout_s=0.3) + b'{"prompt":"a","custom_id":"a"}\n')
    until(lambda: sum(service.held), "it does not run")
    time.sleep(0.5)
    assert sum(service.held)
    sender.send(b'{"prompt":"b","custom_id":"b"}\n')
    sender.send(b"")
    results = results_of(list(sender.answer()), 2)
    assert {(result["status"], result["custom_id"]) for result in results} == {("timeout", "a"), ("timeout", "b")}
    sender.close()


def test_an_error_behind_the_first_results_is_the_last_line(service: Service) -> None:
    sender = Sender(service)
    sender.send(b'{"prompt":"a","sampling_params":{"max_tokens":1}}\n')
    lines = list(sender.answer())
    assert [line["object"] for line in lines if line["object"] != PROGRESS] == [RESULT, ERROR]
    assert lines[-1]["error"]["code"] == "slow_body"
    sender.close()


def test_a_service_that_stops_waits_for_no_body() -> None:
    with serving("--drain-timeout-s", "60") as service:
        sender = Sender(service)
        sender.send(b'"a"\n')
        answer = sender.answer()
        next(line for line in answer if line["object"] == RESULT)
        service.signal()
        *_, last = answer
        assert (last["object"], last["error"]["code"]) == (ERROR, "shutting_down")
        assert service.wait() == 0
        sender.close()


@pytest.mark.parametrize(
    ("body", "headers", "status", "said"),
    [
        (options(max_tokens=3) + b'"a"\n', {}, 400, "it belongs in sampling_params"),
        (options(), {}, 400, "the body has no prompts"),
        (options(model="other") + b'"a"\n', {}, 404, "model 'other' is not served here"),
        (options(dry_run=True) + b'"a"\n', {}, 400, "dry_run needs a JSON body"),
        (options(stream=False) + b'"a"\n', {}, 400, "the answer to an NDJSON body is a stream"),
        (b'"a"\n', {"Accept": "application/json"}, 400, "Accept"),
        (b'"a"\n', {"Content-Encoding": "gzip"}, 415, "uncompressed"),
    ],
)
def test_what_concerns_the_whole_request_has_a_status_of_its_own(
    service: Service, body: bytes, headers: dict[str, str], status: int, said: str
) -> None:
    answer = post(service, body, **headers)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"]["message"]
