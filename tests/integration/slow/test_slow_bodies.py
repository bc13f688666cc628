"""Bodies that stall, trickle or never end: each is given up by its deadline, and nobody else notices."""

import json
import select
import time
from contextlib import ExitStack, suppress

import pytest

from tests.raw_client import BODY_S, HEAD, LATE_S, PATIENT_BODY_S, Raw, cut
from tests.service import DEADLINE_S, Service

# ---------------------------------------------------------------- bodies


def test_a_body_that_stalls_is_answered_408(impatient: Service) -> None:
    with Raw(impatient) as slow:
        slow.send(HEAD + b'Content-Length: 5000\r\n\r\n{"prompts":["')
        error = slow.error(408)
        assert BODY_S * 0.9 < slow.seconds < BODY_S + LATE_S
    assert error["code"] == "slow_body"
    assert "--body-timeout-s" in error["message"] and "--min-body-rate" in error["message"]


def test_a_body_that_trickles_is_answered_408(impatient: Service) -> None:
    with Raw(impatient) as slow:
        slow.send(HEAD + b"Content-Length: 500000\r\n\r\n")
        with pytest.raises(OSError):
            for _ in range(400):
                slow.send(b" ")
                time.sleep(0.05)
        assert slow.seconds < BODY_S + LATE_S


def test_fast_bytes_buy_no_long_pause(impatient: Service) -> None:
    """A megabyte is worth fifty seconds at the rate that is asked for; what is saved up has a bound."""
    with Raw(impatient) as slow:
        slow.send(HEAD + b"Content-Length: 3000000\r\n\r\n" + b" " * 1_000_000)
        with pytest.raises(OSError):
            for _ in range(200):
                slow.send(b" ")
                time.sleep(BODY_S * 0.4)
        assert slow.seconds < 4 * BODY_S + LATE_S


def test_a_body_that_is_slow_and_fast_enough_is_read(service: Service) -> None:
    """It takes longer than the deadline for its next part, and comes a little faster than it has to."""
    pause_s = 0.5
    parts = [b"x" * 12_000] * round(1.25 * PATIENT_BODY_S / pause_s)
    size = len(b'{"prompts":[""]}') + sum(map(len, parts))
    with Raw(service) as raw:
        raw.send(HEAD + b'Connection: close\r\nContent-Length: %d\r\n\r\n{"prompts":["' % size)
        for part in parts:
            raw.send(part)
            time.sleep(pause_s)
        raw.send(b'"]}')
        assert raw.rest().startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("chunk", [b"10000\r\n" + b" " * 65536 + b"\r\n", b"1;" + b"x" * 60_000 + b"\r\n \r\n"])
def test_a_body_that_never_ends_is_given_up(impatient: Service, chunk: bytes) -> None:
    """Spaces up to the limit of a body; or hardly any data between what only frames it."""
    with Raw(impatient) as endless:
        endless.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        try:
            for _ in range(20_000):
                endless.send(chunk)
        except OSError:
            pass  # it was cut while it sent
        else:
            assert endless.rest()[9:12] in (b"400", b"408", b"413")
        assert endless.seconds < 30


def test_trailers_without_end_are_given_up(service: Service) -> None:
    before = cut(service, "invalid")
    with Raw(service) as endless:
        endless.send(HEAD + b'Transfer-Encoding: chunked\r\n\r\n10\r\n{"prompts":["a"]}\r\n0\r\n')
        with suppress(OSError):  # it may be cut while it sends
            for _ in range(20_000):
                endless.send(b"X-Trailer: value\r\n" * 100)
        assert b"200 OK" not in endless.rest()
    assert cut(service, "invalid") > before


def test_the_rest_of_a_body_that_was_refused_has_to_end(impatient: Service) -> None:
    before = cut(impatient, "unread_body")
    with Raw(impatient) as raw:
        raw.send(HEAD.replace(b"json", b"xml") + b"Content-Length: 1000000\r\n\r\n" + b" " * 1000)
        assert b" 415 " in raw.rest()
        assert BODY_S * 0.9 < raw.seconds < BODY_S + LATE_S
    assert cut(impatient, "unread_body") == before + 1


def test_bodies_beyond_the_memory_for_them_are_answered_503(service: Service) -> None:
    """Four of 8 MiB at once, and room for 24 MiB. They come in turn: none waits long for its next part."""
    part = b" " * 256 * 1024
    with ExitStack() as stack:
        senders = [stack.enter_context(Raw(service)) for _ in range(4)]
        for sender in senders:
            sender.send(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % (32 * len(part)))
        with suppress(OSError):  # it may be cut while it sends
            for _ in range(31):
                for sender in senders:
                    sender.send(part)
        answered, _, _ = select.select([sender.socket for sender in senders], [], [], DEADLINE_S)
        refused = [sender.rest() for sender in senders if sender.socket in answered]
    full = [answer for answer in refused if b" 503 " in answer[:20]]
    assert full, [answer[:40] for answer in refused]
    error = json.loads(full[0].partition(b"\r\n\r\n")[2])["error"]
    assert (error["code"], error["type"]) == ("memory_full", "service_unavailable_error")
    assert "--max-held-bytes" in error["message"] and error["retry_after_s"] >= 1
    assert b"retry-after: " in full[0].lower()


def test_a_body_in_tiny_parts_is_read_if_it_is_short(service: Service) -> None:
    body = json.dumps({"prompts": ["a"], "sampling_params": {"max_tokens": 2}}).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    with Raw(service) as raw:
        raw.send(HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
        assert b'"ok":1' in raw.rest()


def test_a_long_body_in_tiny_parts_is_cut(service: Service) -> None:
    before = cut(service, "invalid")
    with Raw(service) as raw:
        with suppress(OSError):
            raw.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n[\r\n" * 300_000)
        assert b"200 OK" not in raw.rest()
    assert cut(service, "invalid") > before


def test_an_encoding_beside_chunked_is_refused(service: Service) -> None:
    with Raw(service) as raw:
        raw.send(HEAD + b"Connection: close\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
        assert b"HTTP/1.1 415 " in raw.rest()
