"""Clients that hold on to connections: each is cut by its deadline, nobody else notices, and nothing stays behind."""

import json
import os
import socket
import time
from contextlib import ExitStack, suppress
from http.client import HTTPResponse
from pathlib import Path

import psutil
import pytest

from tests.raw_client import HEAD, HEAD_S, LATE_S, SEND_S, Raw, cut
from tests.service import DEADLINE_S, Service, until

# ---------------------------------------------------------------- heads


def test_a_connection_that_says_nothing_is_closed(impatient: Service) -> None:
    before = cut(impatient, "slow_head")
    with Raw(impatient) as silent:
        assert silent.rest() == b""
        assert HEAD_S * 0.9 < silent.seconds < HEAD_S + LATE_S
    assert cut(impatient, "slow_head") > before


def test_a_head_that_comes_byte_by_byte_is_answered_408(impatient: Service) -> None:
    with Raw(impatient) as slow:
        with pytest.raises(OSError):
            for byte in (HEAD + b"X: y\r\n" * 100)[:300]:
                slow.send(bytes([byte]))
                time.sleep(0.05)
        assert slow.seconds < HEAD_S + LATE_S


def test_a_second_head_that_does_not_come_ends_a_kept_connection(impatient: Service) -> None:
    with Raw(impatient) as kept:
        kept.send(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert kept.answer().startswith(b"HTTP/1.1 200 ")
        time.sleep(HEAD_S * 1.2)  # idle between two requests: that is allowed
        kept.send(b"GET /health/live HTTP/1.1\r\n")
        error = kept.error(408)
    assert error["code"] == "slow_head"
    assert "--head-timeout-s" in error["message"]


def test_line_ends_do_not_keep_a_connection_alive(impatient: Service) -> None:
    with Raw(impatient) as slow:
        with pytest.raises(OSError):
            for _ in range(200):
                slow.send(b"\r\n")
                time.sleep(0.05)
        assert slow.seconds < HEAD_S + LATE_S


@pytest.mark.parametrize("endless", [b"X-Header: value\r\n" * 100, b"x" * 4096])
def test_a_head_without_end_is_answered_431(service: Service, endless: bytes) -> None:
    with Raw(service) as large:
        large.send(HEAD + b"X: ")
        try:
            for _ in range(1000):
                large.send(endless)
        except OSError:
            pass
        assert large.seconds < LATE_S
    with Raw(service) as large:
        large.send(HEAD + b"X: " + b"y" * 40_000)
        time.sleep(0.1)
        large.send(b"y" * 40_000)
        assert large.error(431)["code"] == "head_too_large"


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"hello\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
        b"CONNECT 127.0.0.1:443 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        HEAD + b"Content-Length: -5\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\x00" * 1000,
    ],
)
def test_what_is_no_http_is_answered_400(service: Service, garbage: bytes) -> None:
    with Raw(service) as raw:
        raw.send(garbage)
        assert raw.error(400)["code"] == "invalid_http"


def test_a_broken_chunk_ends_the_connection(service: Service) -> None:
    with Raw(service) as raw:
        raw.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")
        assert b"200 OK" not in raw.rest()


@pytest.mark.parametrize("size", [70_000, 100_000, 200_000])
def test_a_large_head_is_answered_431_however_it_comes(service: Service, size: int) -> None:
    start = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    path = b"GET /" + b"x" * size + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    for head in (start + b"X: " + b"y" * size, start + b"a:\r\n" * (size // 4), path):
        with Raw(service) as large:
            with suppress(OSError):  # it may be cut before it has sent all
                large.send(head + b"\r\n\r\n")
            assert b"200 OK" not in large.rest()


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_a_wish_for_another_protocol_is_not_granted(service: Service, protocol: bytes) -> None:
    """Some clients have it with every request, and a body."""
    upgrade = UPGRADE % protocol
    with Raw(service) as raw:
        raw.send(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n" + upgrade + b"\r\n")
        assert raw.answer().startswith(b"HTTP/1.1 200 ")
        body = json.dumps({"prompts": ["a"]}).encode()
        upgrade = upgrade.replace(b"Connection: ", b"Connection: close, ")
        raw.send(HEAD + upgrade + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert b'"ok":1' in raw.rest()


@pytest.mark.parametrize("split", [0, 3, 20])
def test_the_body_of_a_request_that_wishes_for_another_protocol_is_no_request(service: Service, split: int) -> None:
    before = [rank["incarnation"] for rank in service.ranks()]
    inner = b"POST /v1/ranks/0/restart HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n"
    head = HEAD + b"Content-Length: %d\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\n\r\n" % len(inner)
    place = head.index(b"Upgrade: h2c") + split
    with Raw(service) as raw:
        raw.send(head[:place])
        time.sleep(0.1)
        raw.send(head[place:])
        time.sleep(0.1)
        raw.send(inner)
        answers = raw.rest()
    assert answers.count(b"HTTP/1.1 ") == 1
    assert answers.startswith(b"HTTP/1.1 400 ")
    assert [rank["incarnation"] for rank in service.ranks()] == before


def test_requests_that_are_sent_ahead_are_answered_in_order(service: Service) -> None:
    request = b"GET /v1/ranks/%d HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with Raw(service) as eager:
        eager.send(b"".join(request % (number % 2) for number in range(500)))
        eager.send(b"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        answers = eager.rest().split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200"] * 500 + [b"404"]
    assert all(b'"rank":%d,' % (number % 2) in answer for number, answer in enumerate(answers[:-1]))


def test_requests_without_end_that_are_sent_ahead_hold_nobody_up(service: Service) -> None:
    """Each would be some kilobytes, before anybody has looked at the first one."""
    gateway = psutil.Process(service.process.pid)
    before = gateway.memory_info().rss
    flood = b"GET / HTTP/1.1\r\n\r\n" * 40_000
    with ExitStack() as many:
        for _ in range(50):
            client = many.enter_context(Raw(service))
            client.socket.settimeout(0.05)
            with suppress(OSError):
                client.send(flood)
        for _ in range(5):
            began = time.monotonic()
            assert service.client.get("/health/live").status_code == 200
            assert time.monotonic() - began < 20
        assert gateway.memory_info().rss - before < 200e6


def test_bodies_that_are_sent_ahead_are_read_in_turn(service: Service) -> None:
    prompt = {"prompt": "a", "metadata": {"padding": "x" * 50_000}}
    body = json.dumps({"prompts": [prompt], "sampling_params": {"max_tokens": 2}}).encode()
    with Raw(service) as eager:
        for number in range(12):
            end = b"Connection: close\r\n" if number == 11 else b""
            eager.send(HEAD + end + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        answers = eager.rest()
    assert answers.count(b'"ok":1') == 12


def test_a_request_that_is_sent_ahead_of_an_answer_waits_for_it(service: Service) -> None:
    body = json.dumps({"prompts": ["slow"], "sampling_params": {"max_tokens": 8000}}).encode()
    with Raw(service) as eager:
        eager.send(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        eager.send(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        answers = eager.rest()
    assert answers.index(b'"status":"ok"') < answers.index(b'"status":"alive"')


# ---------------------------------------------------------------- answers


def test_a_client_that_never_reads_is_cut_and_its_answer_freed(service: Service) -> None:
    before = cut(service, "slow_reader")
    body = json.dumps({"prompts": ["x"] * 2000, "sampling_params": {"max_tokens": 2000}}).encode()  # 16 MB of answer
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", service.port))
        deaf.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        until(lambda: service.metric("phalanx_held_bytes") > 8e6 or cut(service, "slow_reader") > before, "no answer")
        until(lambda: cut(service, "slow_reader") > before, "the reader is not cut", SEND_S + LATE_S)


def test_a_client_that_reads_slowly_gets_all_of_its_answer(service: Service) -> None:
    """It takes longer than the deadline for the next part of it, which it always takes in time."""
    request = {"prompts": ["x"] * 2000, "sampling_params": {"max_tokens": 2000}}  # 16 MB of answer
    body = json.dumps(request).encode()
    with socket.socket() as slow:
        slow.settimeout(DEADLINE_S)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        slow.connect(("127.0.0.1", service.port))
        slow.sendall(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        received = bytearray()
        with HTTPResponse(slow) as response:
            response.begin()
            while part := response.read(65536):
                received += part
                time.sleep(1.25 * SEND_S * len(part) / 16e6)
    assert json.loads(received)["request_counts"]["ok"] == 2000


# ---------------------------------------------------------------- clients that are gone


def test_the_kernel_asks_every_client_whether_it_is_still_there(service: Service) -> None:
    """One that has vanished without a word would stay connected for ever otherwise: its packets are dropped."""
    with Raw(service) as client:
        client.send(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        client.answer()
        ends = tuple(f":{port:04X}" for port in (service.port, client.socket.getsockname()[1]))
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        (timer,) = [row[5] for row in rows if row[1].endswith(ends[0]) and row[2].endswith(ends[1])]
    kind, _, ticks = timer.partition(":")
    assert kind == "02", "no keep-alive timer is set"
    assert int(ticks, 16) <= 60 * os.sysconf("SC_CLK_TCK")


def test_a_client_that_hangs_up_within_its_body_is_no_fault(service: Service) -> None:
    for size in (0, 1, 50):
        with Raw(service) as raw:
            raw.send(HEAD + b"Content-Length: 5000\r\n\r\n" + b" " * size)


# ---------------------------------------------------------------- many connections


def test_connections_beyond_the_bound_are_answered_503_and_the_others_are_served(service: Service) -> None:
    with ExitStack() as stack:
        connected = [stack.enter_context(Raw(service)) for _ in range(300)]
        refused = [raw.error(503) for raw in connected[-50:]]
        assert {error["code"] for error in refused} == {"too_many_connections"}
        assert "--max-connections" in refused[0]["message"] and refused[0]["retry_after_s"] == 5
        first = connected[0]
        first.send(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert first.answer().startswith(b"HTTP/1.1 200 ")
    assert cut(service, "too_many") >= 50


def test_many_that_connect_and_vanish_leave_nothing(service: Service) -> None:
    for _ in range(3):
        with ExitStack() as stack:
            for number in range(150):
                raw = stack.enter_context(Raw(service))
                raw.send(HEAD[: number % len(HEAD) + 1])
