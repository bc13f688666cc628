"""What a client makes of the bytes of an answer, however they are cut, and of errors that are not the service's own."""

import time

import pytest

from phalanx.client.errors import IncompleteAnswer, PhalanxError, ServiceFailed, TryLater, refusal
from phalanx.client.exchange import Answer, Patience

PROGRESS = b'{"object":"batch_generation.progress","id":"batchgen-1","request_counts":{"total":1},"running":1}\n'
RESULT = (
    b'{"object":"batch_generation.result","index":0,"custom_id":null,"status":"ok","outputs":[{"index":0,"text":"\xc3\xa9",'
    b'"finish_reason":"stop","stop_reason":null}],"usage":{"total_tokens":3},"rank":1,"attempts":1,"new_field":[]}\n'
)
SUMMARY = (
    b'{"object":"batch_generation.summary","id":"batchgen-1","model":"m","created_at":1,"request_counts":{"ok":1},'
    b'"usage":{},"stats":{"wall_s":0.1}}\n'
)
WHOLE = PROGRESS + RESULT + SUMMARY


@pytest.mark.parametrize("size", [1, 2, 7, 64, len(WHOLE)])
def test_lines_may_be_cut_anywhere(size: int) -> None:
    answer = Answer()
    parts = [WHOLE[start : start + size] for start in range(0, len(WHOLE), size)]
    results = [result for part in parts for result in answer.take(part)]
    answer.end()
    assert [(result.index, result.text, result.rank) for result in results] == [(0, "\xe9", 1)]
    assert answer.summary is not None and answer.summary.stats == {"wall_s": 0.1}


def test_a_large_line_costs_no_more_for_coming_in_many_parts() -> None:
    """Parts that are joined anew with each one that comes would be two thousand times as many bytes."""
    answer = Answer()
    part = b"x" * 65536
    began = time.process_time()
    for _ in range(2000):
        assert list(answer.take(part)) == []
    assert time.process_time() - began < 5


@pytest.mark.parametrize("line", [b"<html>\n", b'{"object":"surprise"}\n', b"\xff\n", b"[]\n"])
def test_what_is_no_line_of_an_answer_is_said(line: bytes) -> None:
    answer = Answer()
    list(answer.take(PROGRESS))
    with pytest.raises(IncompleteAnswer, match=r"none of Phalanx's .* of batchgen-1 is incomplete"):
        list(answer.take(line))


def test_an_answer_without_a_summary_is_incomplete() -> None:
    answer = Answer()
    assert len(list(answer.take(PROGRESS + RESULT + SUMMARY[:-1]))) == 1
    with pytest.raises(IncompleteAnswer, match="before its summary"):
        answer.end()


def test_a_batch_that_the_service_gave_up_says_why() -> None:
    answer = Answer()
    line = b'{"object":"batch_generation.error","id":"batchgen-1","error":{"message":"too slow","code":"slow_body"}}\n'
    assert len(list(answer.take(PROGRESS + RESULT))) == 1
    with pytest.raises(IncompleteAnswer, match="gave the batch up: too slow: the answer of batchgen-1") as raised:
        list(answer.take(line))
    assert raised.value.code == "slow_body"


def test_an_error_of_a_proxy_is_quoted() -> None:
    error = refusal(502, b"<h1>Bad\n gateway</h1>", None, None)
    assert isinstance(error, ServiceFailed)
    assert str(error) == "it answers 502: <h1>Bad gateway</h1>"


@pytest.mark.parametrize(
    ("body", "header", "seconds"),
    [
        (b'{"error":{"message":"full","retry_after_s":2.5}}', "3", 2.5),
        (b'{"error":{"message":"full"}}', "3", 3.0),
        (b'{"error":{"message":"full"}}', "Fri, 27 Nov 2026 08:00:00 GMT", None),
        (b'{"error":{"message":"full"}}', None, None),
    ],
)
def test_when_to_try_again_is_the_bodys_word_or_else_the_headers(
    body: bytes, header: str | None, seconds: float | None
) -> None:
    error = refusal(429, body, header, "req-1")
    assert isinstance(error, TryLater)
    assert (error.retry_after_s, error.request_id) == (seconds, "req-1")


def test_patience_ends_and_is_for_what_time_mends() -> None:
    full = refusal(429, b'{"error":{"message":"full","retry_after_s":2}}', None, None)
    assert 2 <= Patience(10).pause_s(full) <= 2.2
    with pytest.raises(TryLater):
        Patience(1).pause_s(full)
    with pytest.raises(PhalanxError, match="other"):
        Patience(10).pause_s(PhalanxError("other"))
