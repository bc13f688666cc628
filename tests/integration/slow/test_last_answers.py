"""Answers that end their connection while the request is still being sent: the client gets them, within bounds."""

import json
import urllib.error
import urllib.request

import pytest

from tests.raw_client import BODY_S, HEAD, LATE_S, Raw, cut
from tests.service import BATCH, DEADLINE_S, Service, until

LARGE = b" " * 10_000_000  # more than the kernel takes in for a gateway that does not read
CLOSE = b"Connection: close\r\n"


@pytest.mark.parametrize("end", [CLOSE, b"Connection: close, x\r\nExpect: 100-continue\r\n"])
@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        (HEAD.replace(b"json", b"xml"), 415, "unsupported_media_type"),
        (HEAD.replace(BATCH.encode(), b"/nothing"), 404, "path_not_found"),
        (HEAD.replace(b"127.0.0.1", b"evil.example"), 400, "host_not_allowed"),
        (HEAD + b"X: %b\r\n" % (b"x" * 70_000), 431, "head_too_large"),
    ],
)
def test_a_refusal_reaches_a_client_that_is_still_sending(
    service: Service, head: bytes, status: int, code: str, end: bytes
) -> None:
    with Raw(service) as client:
        client.send(head + end + b"Content-Length: %d\r\n\r\n" % len(LARGE) + LARGE)
        assert client.error(status)["code"] == code


def test_a_body_that_is_too_large_is_refused_while_it_comes(service: Service) -> None:
    with Raw(service) as client:
        client.send(HEAD + CLOSE + b"Content-Length: %d\r\n\r\n" % 10**12 + LARGE)
        assert client.error(413)["code"] == "body_too_large"


def test_a_client_of_http_1_0_gets_its_refusal(service: Service) -> None:
    head = HEAD.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"json", b"xml")
    with Raw(service) as client:
        client.send(head + b"Content-Length: %d\r\n\r\n" % len(LARGE) + LARGE)
        assert client.error(415)["code"] == "unsupported_media_type"


def test_pythons_own_client_gets_its_refusal(service: Service) -> None:
    client = urllib.request.build_opener()
    client.addheaders = [("Content-Type", "text/plain")]
    with pytest.raises(urllib.error.HTTPError) as refused:
        client.open(service.url + BATCH, LARGE, DEADLINE_S)
    with refused.value as answer:
        assert (answer.status, json.load(answer)["error"]["code"]) == (415, "unsupported_media_type")


def test_a_refused_body_with_connection_close_has_to_end(impatient: Service) -> None:
    before = cut(impatient, "unread_body")
    with Raw(impatient) as endless:
        endless.send(HEAD.replace(b"json", b"xml") + CLOSE + b"Content-Length: %d\r\n\r\n" % 10**12)
        with pytest.raises(OSError):
            for _ in range(100_000):
                endless.send(LARGE)
        assert endless.seconds < BODY_S + LATE_S
    assert cut(impatient, "unread_body") == before + 1


def test_a_client_that_neither_sends_nor_goes_is_cut(impatient: Service) -> None:
    before = cut(impatient, "unread_body")
    with Raw(impatient) as idle:
        idle.send(HEAD.replace(b"json", b"xml") + CLOSE + b"Content-Length: 1000\r\n\r\n" + b" " * 100)
        assert idle.error(415)["code"] == "unsupported_media_type"
        until(lambda: cut(impatient, "unread_body") == before + 1, "it is still connected")
        assert idle.seconds < BODY_S + LATE_S


@pytest.mark.parametrize(
    ("rest", "code"), [(b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "invalid_http"), (b"", "tiny_parts")]
)
def test_a_body_that_is_framed_wrongly_is_refused_in_words(service: Service, rest: bytes, code: str) -> None:
    tiny = b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n[\r\n" * 20_000
    with Raw(service) as client:
        client.send(HEAD + (rest or tiny))
        assert client.error(400)["code"] == code
