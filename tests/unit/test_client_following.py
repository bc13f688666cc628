"""How a client reads a detached batch over broken connections and restarts, and how long it waits for one."""

import json
from types import SimpleNamespace

import httpx
import pytest

from phalanx.client import exchange
from phalanx.client.errors import ConnectionFailed, IncompleteAnswer, PhalanxError, TryLater, refusal
from phalanx.client.exchange import Patience
from phalanx.client.following import LONGEST_PAUSE_S, Following, Waiting
from phalanx.client.results import Result

PROGRESS = b'{"object":"batch_generation.progress","id":"batchgen-1","status":"in_progress","request_counts":{}}\n'
SUMMARY = (
    b'{"object":"batch_generation.summary","id":"batchgen-1","model":"m","created_at":1,"request_counts":{},"usage":{},'
    b'"stats":null,"status":"cancelled","reason":null}\n'
)


def result(seq: int, index: int) -> bytes:
    fields = {"object": "batch_generation.result", "seq": seq, "index": index, "status": "ok", "outputs": []}
    return json.dumps(fields | {"usage": {}}).encode() + b"\n"


def read(following: Following, *lines: bytes) -> list[tuple[int | None, int]]:
    """The seq and index of what comes of these lines in an answer of their own."""
    following.call()
    found: list[Result] = [result for line in lines for result in following.take(line)]
    return [(result.seq, result.index) for result in found]


@pytest.fixture
def following() -> Following:
    return Following("batchgen-1", 0, patience_s=0, follow=True)


def test_reading_goes_on_after_the_last_seq_and_forgets_half_a_line(following: Following) -> None:
    assert read(following, result(1, 5), result(2, 0), b'{"object":"batch_gen') == [(1, 5), (2, 0)]
    assert not following.is_over
    assert following.call().params == {"after": 2, "follow": 1}
    assert read(following, result(3, 1), SUMMARY) == [(3, 1)]
    assert following.is_over and following.summary is not None and following.summary.status == "cancelled"


def test_results_without_a_seq_of_their_own_come_once(following: Following) -> None:
    assert read(following, result(1, 300), result(1, 0), result(1, 1)) == [(1, 300), (1, 0), (1, 1)]
    assert following.call().params == {"after": 1, "follow": 1}
    assert read(following, result(1, 0), result(1, 1), result(1, 2), SUMMARY) == [(1, 2)]


def test_a_service_that_stops_is_asked_again_and_one_that_has_said_all_is_not(following: Following) -> None:
    read(following, result(1, 0), PROGRESS)
    assert not following.is_over
    glance = Following("batchgen-1", 7, patience_s=0, follow=False)
    assert glance.call().params == {"after": 7}
    assert read(glance, result(8, 0)) == [(8, 0)] and not glance.is_over
    read(glance, PROGRESS)
    assert glance.is_over and glance.progress is not None


def test_patience_begins_anew_with_each_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(exchange, "time", SimpleNamespace(monotonic=lambda: now))
    following = Following("batchgen-1", 0, patience_s=10, follow=True)
    read(following, result(1, 0))
    now = 1000  # of good service
    following.patience.pause_s(following.broken_off())
    now = 1008
    following.patience.pause_s(following.broken_off(httpx.ReadError("reset")))
    now = 1012
    with pytest.raises(IncompleteAnswer, match="reset"):
        following.patience.pause_s(following.broken_off(httpx.ReadError("reset")))
    read(following, PROGRESS)
    following.patience.pause_s(following.broken_off())


def test_the_line_of_a_result_is_handed_on_as_it_came(following: Following) -> None:
    following.call()
    lines = [following.line for _ in following.take(result(1, 0) + result(2, 1) + PROGRESS)]
    assert [line + b"\n" for line in lines] == [result(1, 0), result(2, 1)]


@pytest.mark.parametrize(
    "error",
    [
        ConnectionFailed("refused"),
        IncompleteAnswer("ended"),
        refusal(502, b"<html>", None, None),
        refusal(504, b"<html>", None, None),
    ],
    ids=["connection", "answer", "502", "504"],
)
def test_an_outage_is_survived_only_where_that_is_asked_for(error: PhalanxError) -> None:
    assert 1 <= Patience(10, survives_outages=True).pause_s(error) <= 1.1
    with pytest.raises(type(error)):
        Patience(10).pause_s(error)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionFailed("no such scheme", is_temporary=False),
        refusal(404, b"", None, None),
        refusal(500, b"", None, None),
    ],
    ids=["scheme", "404", "500"],
)
def test_what_is_no_outage_is_raised_at_once(error: PhalanxError) -> None:
    with pytest.raises(type(error)):
        Patience(10, survives_outages=True).pause_s(error)


def test_a_service_without_room_is_asked_at_its_own_pace_over_outages_too() -> None:
    full = refusal(503, b'{"error":{"message":"starting","retry_after_s":3}}', None, None)
    assert isinstance(full, TryLater)
    assert 3 <= Patience(10, survives_outages=True).pause_s(full) <= 3.3


def test_looks_at_a_batch_grow_rarer_up_to_a_bound() -> None:
    waiting = Waiting(None, patience_s=10)
    pauses = [waiting.pause_s("batchgen-1") for _ in range(20)]
    assert pauses == sorted(pauses) and pauses[0] < 0.1 and pauses[-1] == LONGEST_PAUSE_S


def test_waiting_ends_in_time() -> None:
    assert 0 < max(Waiting(0.2, patience_s=10).pause_s("batchgen-1") for _ in range(20)) <= 0.2
    with pytest.raises(TimeoutError, match="batchgen-1 has not ended after 0 s"):
        Waiting(0, patience_s=10).pause_s("batchgen-1")
