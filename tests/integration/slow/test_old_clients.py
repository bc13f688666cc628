"""Clients of HTTP/1.0, which knows neither chunks nor `100 Continue`, and those that wait for the latter in 1.1."""

import json

import pytest

from tests.raw_client import HEAD, Raw
from tests.service import Service

OLD_HEAD = HEAD.replace(b"HTTP/1.1", b"HTTP/1.0")
LIVE = b"GET /health/live HTTP/1.0\r\nHost: 127.0.0.1\r\n"
KEEP = b"Connection: keep-alive\r\n"
EXPECT = b"Expect: 100-continue\r\n"


def with_length(head: bytes, **fields: object) -> bytes:
    """A batch after the beginning of its head."""
    body = json.dumps({"prompts": ["a"], "sampling_params": {"max_tokens": 2}} | fields).encode()
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize("head", [OLD_HEAD, OLD_HEAD + KEEP, OLD_HEAD + EXPECT])
def test_an_answer_to_http_1_0_ends_with_the_connection_and_has_no_chunks(service: Service, head: bytes) -> None:
    with Raw(service) as client:
        client.send(with_length(head))
        head, _, body = client.rest().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"transfer-encoding" not in head.lower() and b"connection: close" in head.lower()
    assert json.loads(body)["request_counts"]["ok"] == 1


def test_a_large_answer_to_http_1_0_comes_whole(service: Service) -> None:
    with Raw(service) as client:
        client.send(with_length(OLD_HEAD, prompts=["a"] * 500, sampling_params={"max_tokens": 500}))
        body = client.rest().partition(b"\r\n\r\n")[2]
    assert len(body) > 500_000
    assert json.loads(body)["request_counts"]["ok"] == 500


def test_a_connection_of_http_1_0_is_kept_only_if_its_client_asks_for_it(service: Service) -> None:
    with Raw(service) as client:
        for _ in range(2):
            client.send(LIVE + KEEP + b"\r\n")
            answer = client.answer().lower()
            assert b"connection: keep-alive" in answer and b"content-length: " in answer
        client.send(LIVE + b"\r\n")
        answer = client.rest().lower()
    assert b"connection: close" in answer and answer.endswith(b"}")


@pytest.mark.parametrize(
    "head", [LIVE.replace(b"live", b"nothing"), OLD_HEAD.replace(b"json", b"xml"), LIVE.replace(b"GET", b"HEAD")]
)
def test_other_answers_to_http_1_0_have_a_length(service: Service, head: bytes) -> None:
    with Raw(service) as client:
        client.send(head + b"\r\n")
        head, _, body = client.rest().lower().partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head and b"connection: close" in head
    assert b"content-length: %d" % len(body) in head or not body


def test_who_expects_100_continue_gets_it_once_the_body_is_wanted(service: Service) -> None:
    whole = with_length(HEAD + b"Connection: close\r\n" + EXPECT)
    head, _, body = whole.partition(b"\r\n\r\n")
    with Raw(service) as client:
        client.send(head + b"\r\n\r\n")
        assert client.socket.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(body)
        answer = client.rest()
    assert answer.startswith(b"HTTP/1.1 200 ") and b'"ok":1,' in answer


def test_who_expects_100_continue_and_is_refused_sends_no_body_on_a_connection_that_ends(service: Service) -> None:
    """If it went on, what comes next could be the body or another request: nobody could tell."""
    with Raw(service) as client:
        client.send(HEAD.replace(b"json", b"xml") + EXPECT + b"Content-Length: 50\r\n\r\n")
        assert client.error(415)["code"] == "unsupported_media_type"
    with Raw(service) as client:
        client.send(LIVE.replace(b"1.0", b"1.1") + EXPECT + b"\r\n")  # there is no body to wait for
        assert b"connection: close" not in client.answer()


@pytest.mark.parametrize("head", [LIVE, LIVE.replace(b"HTTP/1.0", b"HTTP/1.1")])
def test_head_gets_no_body_when_its_own_head_is_refused(service: Service, head: bytes) -> None:
    with Raw(service) as client:
        client.send(head.replace(b"GET", b"HEAD") + b"X: " + b"y" * 70_000 + b"\r\n\r\n")
        answer = client.rest()
    assert answer.startswith(b"HTTP/1.1 431 ") and answer.endswith(b"\r\n\r\n")
