"""HTTP as text: what is changed in it before the parser sees it, and answers that no application gives."""

import http
import re
import uuid
from collections.abc import Mapping

from app.api.errors import answer
from app.errors import HeadTooLarge, InvalidRequest, RequestError, TooSlow

UPGRADE, IGNORED = re.compile(rb"(\n)upgrade([ \t]*:)", re.IGNORECASE), rb"\1ignored\2"


def without_upgrade(data: bytes) -> bytes:
    """What begins with a head, or a part of one, without its wish for another protocol."""
    if b"pgrade" not in data and b"PGRADE" not in data:
        return data
    head, end, rest = data.partition(b"\r\n\r\n")
    return UPGRADE.sub(IGNORED, head) + end + rest


def large_head(limit_bytes: int) -> HeadTooLarge:
    """Of a head beyond the limit."""
    message = f"the head of the request has more than {limit_bytes} bytes: send fewer headers"
    return HeadTooLarge(message, code="head_too_large")


def slow_head(limit_s: float) -> TooSlow:
    """Of a head that does not come."""
    return TooSlow(f"the head of the request did not come within {limit_s:g} s (--head-timeout-s)", code="slow_head")


def too_many_ahead(limit_bytes: int) -> InvalidRequest:
    """Of a client that does not wait for answers."""
    message = f"more than {limit_bytes} bytes of requests were sent ahead: wait for answers"
    return InvalidRequest(message, code="too_many_ahead")


def tiny_parts(limit_bytes: int) -> InvalidRequest:
    """Of a body in chunks that hold next to nothing."""
    message = f"the body comes in parts of fewer than {limit_bytes} bytes on average: send larger ones"
    return InvalidRequest(message, code="tiny_parts")


def much_framing(limit: int) -> InvalidRequest:
    """Of a body that is next to nothing but sizes of chunks, their extensions, and trailers."""
    message = f"chunk sizes and trailers take more than {limit} bytes for each byte of the body: send larger chunks"
    return InvalidRequest(message, code="much_framing")


def invalid_http(message: str) -> InvalidRequest:
    """Of what the parser does not understand, or must not."""
    return InvalidRequest(message, code="invalid_http")


def encoded(error: RequestError, headers: list[tuple[bytes, bytes]], *, is_head: bool) -> bytes:
    """An answer as it goes over the wire, for a request that no application has seen; to HEAD, without its body."""
    response = answer(error)
    names: Mapping[bytes, bytes] = dict([*headers, *response.raw_headers]) | {
        b"x-request-id": f"req-{uuid.uuid4().hex}".encode(),
        b"connection": b"close",
    }
    lines = b"".join(b"%s: %s\r\n" % header for header in names.items())
    phrase = http.HTTPStatus(error.status).phrase
    body = b"" if is_head else bytes(response.body)
    return f"HTTP/1.1 {error.status} {phrase}\r\n".encode() + lines + b"\r\n" + body
