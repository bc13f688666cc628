"""More work than the ranks can do: who waits, for how long, and who is sent away.

The engine makes a step in 10 ms and runs four sequences at once; an item's max_tokens say how long it takes.
"""

import json
import time
from collections.abc import Iterator

import pytest

from tests.raw_client import HEAD, Raw
from tests.service import BATCH, Service, serving, until

LONG = {"max_tokens": 8000}  # 80 s
SOON_S = 30.0  # for what is done at once, on a machine that is busy with other things; LONG items take much longer
CAPACITY = 6  # sequences that a rank holds: four run, two are at hand
FLAGS = ("--prefetch", "2", "--max-waiting-items", "40", "--drain-timeout-s", "1", "--keepalive-s", "50ms")


@pytest.fixture(scope="module")
def slow() -> Iterator[Service]:
    with serving(*FLAGS, step_ms=10, max_num_seqs=4) as service:
        yield service


@pytest.fixture(autouse=True)
def idle_again(slow: Service) -> Iterator[None]:
    """Every test ends with nothing on the ranks."""
    yield
    until(slow.is_idle, "something is still there", SOON_S)


# ---------------------------------------------------------------- the client goes away


def test_a_client_that_goes_away_frees_its_items_at_once(slow: Service) -> None:
    with slow.begin(["a"] * 40, sampling_params=LONG):
        until(lambda: slow.held == [CAPACITY, CAPACITY] and slow.backlog == 28, "it does not run")
        assert [rank["credit"] for rank in slow.ranks()] == [0, 0]
    until(slow.is_idle, "its items are still there", SOON_S)
    assert [rank["credit"] for rank in slow.ranks()] == [CAPACITY, CAPACITY]
    until(lambda: [rank["running"] + rank["waiting"] for rank in slow.ranks()] == [0, 0], "the engine holds on", SOON_S)
    assert slow.batch(["b"], sampling_params={"max_tokens": 1})["request_counts"]["ok"] == 1


def test_a_client_that_goes_away_after_another_request_frees_its_items_too(slow: Service) -> None:
    body = json.dumps({"prompts": ["a"] * 40, "sampling_params": LONG}).encode()
    with Raw(slow) as client:
        client.send(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body + HEAD)
        client.send(b"Content-Length: 100\r\n\r\n ")  # which has come in part
        until(lambda: slow.held == [CAPACITY, CAPACITY] and slow.backlog == 28, "it does not run")
    until(slow.is_idle, "its items are still there", SOON_S)
    assert "Traceback" not in slow.log


def test_a_broken_request_behind_a_batch_ends_both(slow: Service) -> None:
    body = json.dumps({"prompts": ["a"] * 40, "sampling_params": LONG}).encode()
    with Raw(slow) as client:
        client.send(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\nno size\r\n")
        client.rest()
    until(slow.is_idle, "its items are still there", SOON_S)
    assert "Traceback" not in slow.log


def test_what_is_left_of_a_lost_clients_batch_is_counted_as_cancelled(slow: Service) -> None:
    before = slow.metric("phalanx_items_total", status="cancelled")
    with slow.begin(["a"] * 20, sampling_params=LONG):
        until(lambda: slow.held == [CAPACITY, CAPACITY], "it does not run")
    until(lambda: slow.metric("phalanx_items_total", status="cancelled") == before + 20, "it is not counted", SOON_S)


# ---------------------------------------------------------------- timeout_s


def test_a_timeout_gives_what_is_finished_and_timeout_for_the_rest(slow: Service) -> None:
    quick = {"prompt": "a", "sampling_params": {"max_tokens": 1}}
    began = time.monotonic()
    answer = slow.batch([quick] * 4 + ["b"] * 30, sampling_params=LONG, timeout_s=5)
    assert 5 <= time.monotonic() - began < 5 + SOON_S
    statuses = [result["status"] for result in answer["results"]]
    assert statuses == ["ok"] * 4 + ["timeout"] * 30
    assert answer["request_counts"] == {"total": 34, "ok": 4, "error": 0, "cancelled": 0, "timeout": 30}
    assert {result["attempts"] for result in answer["results"][4:]} == {0, 1}  # some were running
    assert all(result["outputs"] == [] and "error" not in result for result in answer["results"][4:])
    assert answer["stats"]["wall_s"] >= 5


def test_a_batch_that_is_done_in_time_does_not_wait_for_its_timeout(slow: Service) -> None:
    answer = slow.batch(["a"], sampling_params={"max_tokens": 1}, timeout_s=80)
    assert answer["request_counts"]["ok"] == 1 and answer["stats"]["wall_s"] < 80


# ---------------------------------------------------------------- keeping the connection open


def test_spaces_come_until_the_body_does(slow: Service) -> None:
    request = {"prompts": ["a"], "sampling_params": {"max_tokens": 50}}
    with slow.client.stream("POST", BATCH, json=request) as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        pieces = list(answer.iter_raw())
    assert pieces[0].strip() == b""  # head and spaces do not wait for the body
    body = b"".join(pieces)
    spaces = len(body) - len(body.lstrip(b" "))
    assert spaces >= 2
    assert json.loads(body)["results"][0]["status"] == "ok"


def test_spaces_come_without_chunks_to_http_1_0(slow: Service) -> None:
    request = b'{"prompts":["a"],"sampling_params":{"max_tokens":50}}'
    with Raw(slow) as client:
        head = HEAD.replace(b"HTTP/1.1", b"HTTP/1.0")
        client.send(head + b"Content-Length: %d\r\n\r\n" % len(request) + request)
        body = client.rest().partition(b"\r\n\r\n")[2]
    assert body.startswith(b"  ") and json.loads(body)["results"][0]["status"] == "ok"


# ---------------------------------------------------------------- no room


def test_a_full_backlog_is_429_with_a_time_that_fits_the_measured_rate(slow: Service) -> None:
    slow.batch(["a"] * 40, sampling_params={"max_tokens": 10})  # something to measure: 8 sequences, 10 ms a token
    with slow.begin(["a"] * 40, sampling_params={"max_tokens": 500}):  # 28 wait for five seconds
        until(lambda: slow.backlog == 28, "it does not wait")
        assert slow.metric("phalanx_active_batches") == 1
        answer = slow.post(["b"] * 40, sampling_params={"max_tokens": 500})
        assert answer.status_code == 429
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "backlog_full")
        assert "28 items" in error["message"] and "--max-waiting-items 40" in error["message"]
        assert 5 < error["retry_after_s"] < 500  # 28 items of 500 tokens at 800 tokens a second are 18 s
        assert int(answer.headers["retry-after"]) == min(60, -(-error["retry_after_s"] // 1))
        assert slow.batch(["b"], priority=-1, sampling_params={"max_tokens": 1})["request_counts"]["ok"] == 1
    until(slow.is_idle, "its items are still there", SOON_S)
    assert slow.batch(["b"] * 40, sampling_params={"max_tokens": 1})["request_counts"]["ok"] == 40


# ---------------------------------------------------------------- large items


def test_an_item_that_is_larger_than_the_credit_runs_alone(slow: Service) -> None:
    large = {"prompt": "a", "sampling_params": {"n": 20, "max_tokens": 400}}
    with slow.begin([large, large, *["b"] * 10], sampling_params={"max_tokens": 60}) as batch:
        until(lambda: slow.held == [1, 1] and slow.backlog == 10, "they do not run alone")
        assert [rank["credit"] for rank in slow.ranks()] == [0, 0]
        answer = batch.answer()
    assert answer["request_counts"]["ok"] == 12
    assert [len(result["outputs"]) for result in answer["results"]] == [20, 20] + [1] * 10
    assert answer["usage"]["completion_tokens"] == 40 * 400 + 10 * 60
