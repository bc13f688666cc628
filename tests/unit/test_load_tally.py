"""What the load clients count: answers, failed items, refusals by kind, and percentiles."""

from typing import Any

import httpx
import msgspec
import pytest

from phalanx.client import IncompleteAnswer, Result, ResultError, Usage
from phalanx.client.exchange import unreachable
from tests.load.tally import Tally


def answer(*results: dict[str, Any], tokens: int = 0) -> bytes:
    return msgspec.json.encode({"id": "x", "results": results, "usage": {"completion_tokens": tokens}})


def test_items_that_are_not_ok_are_errors_by_their_code_or_status() -> None:
    tally = Tally()
    poisoned = {"status": "error", "error": {"code": "poisoned", "message": "m"}}
    tally.answered(0.5, answer({"status": "ok"}, poisoned, {"status": "timeout"}, poisoned, tokens=16))
    assert (tally.requests, tally.items, tally.tokens) == (1, 1, 16)
    assert tally.errors == {"item poisoned": 2, "item timeout": 1}


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"results":[]}'])
def test_a_200_that_is_no_batchs_answer_is_an_error(body: bytes) -> None:
    tally = Tally()
    tally.answered(0.5, body)
    assert (tally.requests, tally.errors) == (0, {"200 without results": 1})


def test_refusals_are_told_apart_by_status_and_code() -> None:
    tally = Tally()
    tally.refused(429, b'{"error":{"code":"backlog_full","message":"m"}}')
    tally.refused(503, b"<html>a proxy's</html>")
    tally.refused(400, b'{"error":{"code":null}}')
    assert tally.postponed == {"429 backlog_full": 1, "503": 1}
    assert tally.errors == {"400": 1}


def test_a_stream_counts_as_a_whole_answer_does() -> None:
    tally = Tally()
    ok = Result(0, "ok", [], Usage(completion_tokens=8))
    poisoned = Result(1, "error", [], Usage(), error=ResultError("poisoned", "m"))
    tally.streamed(0.5, [ok, poisoned, Result(2, "timeout", [], Usage(completion_tokens=3)), ok])
    assert (tally.requests, tally.items, tally.tokens) == (1, 2, 19)
    assert tally.errors == {"item poisoned": 1, "item timeout": 1}


def test_answers_that_break_are_told_apart_by_what_broke_them() -> None:
    tally = Tally()
    tally.broke(httpx.ConnectError("refused"))
    tally.broke(unreachable("http://gateway", httpx.ConnectError("refused")))
    tally.broke(IncompleteAnswer("a line is none of Phalanx's"))
    assert tally.errors == {"ConnectError": 2, "IncompleteAnswer": 1}


def test_a_percentile_is_the_latency_that_so_many_requests_do_not_exceed() -> None:
    tally = Tally()
    assert tally.percentile(50) is None
    tally.latencies_s = [float(second) for second in range(200, 0, -1)]
    assert [tally.percentile(percent) for percent in (50, 90, 99, 100)] == [100.0, 180.0, 198.0, 200.0]
    tally.latencies_s = [3.0]
    assert [tally.percentile(percent) for percent in (50, 99, 100)] == [3.0, 3.0, 3.0]
