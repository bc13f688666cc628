"""What a client may do to a connection, and for how long: uvicorn's own protocol bounds none of it.

A head has to come within a deadline and a size; what comes between the data of a body (framing of chunks, trailers) is
bounded by the data; a body that nobody reads any more, since its request has been answered, has to end; an answer has
to be taken. Otherwise the connection is cut, and what it held is free. How fast a body comes that is being read is
app/api/body.py's business. Connections beyond the bound are answered 503 before they have asked anything.
"""

import asyncio
import http
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.api.errors import answer
from app.errors import HeadTooLarge, InvalidRequest, RequestError, TooSlow, TryLater
from app.metrics import Metrics

MAX_HEAD_BYTES = 64 * 1024
MAX_FRAMING_BYTES = 64 * 1024  # of a body beyond its data
FRAMING_PER_BYTE = 16  # more of it is allowed for each byte of data: chunks of one byte are silly, and legal
FAREWELL_S = 2.0  # for a client that was refused to read why, before the connection is cut
FAREWELLS = 256  # that are said at once; beyond it connections end without a word
RETRY_S = 5.0
BEGUN_AT_ONCE = 16  # requests between two turns of the event loop: some milliseconds


class Cut(StrEnum):
    """Why a connection was ended by us."""

    TOO_MANY = "too_many"  # there is no room for one more
    SLOW_HEAD = "slow_head"
    LARGE_HEAD = "large_head"
    INVALID = "invalid"  # it is not HTTP
    UNREAD_BODY = "unread_body"  # the request was answered, and its body still comes
    SLOW_READER = "slow_reader"


@dataclass(frozen=True)
class ConnectionLimits:
    """Bounds of one connection, and of all."""

    max_connections: int
    head_timeout_s: float
    body_timeout_s: float  # for the rest of a body that nobody reads
    send_timeout_s: float


class Connections:
    """All connections of the server."""

    def __init__(self, limits: ConnectionLimits, metrics: Metrics) -> None:
        self.limits = limits
        self.open = 0
        self._arrived: deque[Callable[[], None]] = deque()  # requests that have not begun
        self.count_cut = metrics.watch_connections(lambda: self.open, Cut)

    def protocol(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],  # Any: uvicorn's
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> "BoundedProtocol":
        """For uvicorn, which calls it for every connection."""
        return BoundedProtocol(self, config, server_state, app_state, _loop)

    def begin_soon(self, begin: Callable[[], None]) -> None:
        """Begins a request in its turn: ten thousand that come at once would leave the loop no turn for seconds."""
        self._arrived.append(begin)
        if len(self._arrived) == 1:
            asyncio.get_running_loop().call_soon(self._begin_some)

    def _begin_some(self) -> None:
        for _ in range(min(BEGUN_AT_ONCE, len(self._arrived))):
            self._arrived.popleft()()
        if self._arrived:
            asyncio.get_running_loop().call_soon(self._begin_some)


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, connections: Connections, *arguments: Any) -> None:  # Any: uvicorn's
        super().__init__(*arguments)
        self._all = connections
        self._limits = connections.limits
        self._refused = False  # what comes is not looked at any more
        self._in_body = False  # a head has come whole, the message has not
        self._head_bytes = 0
        self._heads = 0
        self._body_bytes = 0
        self._framing_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None  # for the client to send what it has to
        self._send_deadline: asyncio.TimerHandle | None = None

    # -- the transport's calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._all.open += 1
        excess = self._all.open - self._limits.max_connections
        if excess > FAREWELLS:
            self._cut(Cut.TOO_MANY)
        elif excess > 0:
            self._refuse(
                TryLater(
                    f"{self._limits.max_connections} connections are open, and there is no room for one more "
                    f"(--max-connections): try again in {RETRY_S:.0f} s",
                    status=503,
                    code="too_many_connections",
                    retry_after_s=RETRY_S,
                ),
                Cut.TOO_MANY,
            )
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.open -= 1
        self._disarm()
        self._disarm_send()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unset_keepalive_if_required()
        heads, body_bytes, was_in_body = self._heads, self._body_bytes, self._in_body
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # it is answered without one
        except httptools.HttpParserError:
            self._refuse(InvalidRequest("this is no valid HTTP/1.1 request", code="invalid_http"), Cut.INVALID)
            return
        if not self._in_body:
            self._count_head(len(data) if heads == self._heads and not was_in_body else 0)
        elif was_in_body and heads == self._heads:
            self._count_framing(len(data) - (self._body_bytes - body_bytes))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._disarm_send()
        self._send_deadline = self.loop.call_later(self._limits.send_timeout_s, self._cut, Cut.SLOW_READER)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._disarm_send()

    # -- the parser's calls

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:  # trailers are for nobody here
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._disarm()
        self._in_body = True
        self._heads += 1
        self._head_bytes = self._body_bytes = self._framing_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()
        if self.cycle.response_complete:
            self._disarm()
            self._stay_open()

    # -- uvicorn's calls

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body and not self.transport.is_closing() and not self.pipeline:
            self._arm(self._limits.body_timeout_s, lambda: self._cut(Cut.UNREAD_BODY))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        begin = super()._start_asgi_task
        self._all.begin_soon(lambda: begin(cycle, app))

    # -- deadlines

    def _await_head(self) -> None:
        self._arm(self._limits.head_timeout_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._deadline = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._await_head()  # it was sent ahead, while a request runs: nobody waits for it
        elif self._head_bytes == 0:
            self._all.count_cut(Cut.SLOW_HEAD)
            self.transport.close()
        else:
            limit_s = self._limits.head_timeout_s
            message = f"the head of the request did not come within {limit_s:g} s (--head-timeout-s)"
            self._refuse(TooSlow(message, code="slow_head"), Cut.SLOW_HEAD)

    def _count_head(self, size: int) -> None:
        """A part of a head has come, or what may become one."""
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            message = f"the head of the request has more than {MAX_HEAD_BYTES} bytes: send fewer headers"
            self._refuse(HeadTooLarge(message, code="head_too_large"), Cut.LARGE_HEAD)
        elif size and self._deadline is None:
            self._await_head()

    def _count_framing(self, size: int) -> None:
        self._framing_bytes += size
        if self._framing_bytes > MAX_FRAMING_BYTES + FRAMING_PER_BYTE * self._body_bytes:
            self._cut(Cut.INVALID)

    def _stay_open(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _arm(self, seconds: float, then: Callable[[], None]) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(seconds, then)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _disarm_send(self) -> None:
        if self._send_deadline is not None:
            self._send_deadline.cancel()
            self._send_deadline = None

    # -- ends

    def _refuse(self, error: RequestError, reason: Cut) -> None:
        """Says why, and ends the connection when the client has had a moment to read it."""
        if self.transport.is_closing() or (self.cycle is not None and not self.cycle.response_complete):
            self._cut(reason)  # there is nobody to tell, or the answer to another request is under way
            return
        self._all.count_cut(reason)
        self._refused = True
        self._unset_keepalive_if_required()
        self.transport.write(_encoded(error, self.server_state.default_headers))
        self.transport.write_eof()
        self._arm(FAREWELL_S, self.transport.abort)

    def _cut(self, reason: Cut) -> None:
        """Ends the connection at once; what waits to be sent is dropped."""
        self._all.count_cut(reason)
        self._refused = True
        self._disarm()
        self.transport.abort()


def _encoded(error: RequestError, headers: list[tuple[bytes, bytes]]) -> bytes:
    """An answer as it goes over the wire, for a request that no application has seen."""
    response = answer(error)
    names: Mapping[bytes, bytes] = dict([*headers, *response.raw_headers]) | {
        b"x-request-id": f"req-{uuid.uuid4().hex}".encode(),
        b"connection": b"close",
    }
    lines = b"".join(b"%s: %s\r\n" % header for header in names.items())
    phrase = http.HTTPStatus(error.status).phrase
    return f"HTTP/1.1 {error.status} {phrase}\r\n".encode() + lines + b"\r\n" + bytes(response.body)
