"""What a client may do to a connection, and for how long: uvicorn's own protocol bounds none of it.

A head has to come within a deadline and a size; what comes between the data of a body (framing of chunks, trailers),
and in how many parts, is bounded by the data; requests that are sent ahead of their turn are not looked at until few
are before them; a body that nobody reads any more, since its request has been answered, has to end; an answer has to
be taken. Otherwise the connection is cut,
and what it held is free. How fast a body comes that is being read is app/api/body.py's business. Connections beyond
the bound are answered 503 before they have asked anything.

A wish for another protocol (`Upgrade: h2c`, as some clients send with every request) is ignored, as HTTP allows. The
parser would take what follows for that protocol, which drops the body and runs what is in it as a request.
"""

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.errors import InvalidRequest, RequestError, TryLater
from app.http.connections import FAREWELLS, MOST_AHEAD_BYTES, Connections, Cut
from app.http.text import encoded, large_head, slow_head, tiny_parts, too_many_ahead, without_upgrade

MAX_HEAD_BYTES = 64 * 1024
MAX_FRAMING_BYTES = 64 * 1024  # of a body beyond its data
FRAMING_PER_BYTE = 16  # more of it is allowed for each byte of data: chunks of one byte are silly, and legal
MAX_PARTS = 4096  # that a body may come in, whatever its size: each costs some microseconds
BYTES_PER_PART = 16  # on average beyond these
BYTES_PER_HEADER = 32  # that one counts for beside its name and value: it takes memory, too
MOST_AHEAD = 8  # requests on one connection that wait for the one before them, and are parsed
MAX_AHEAD_BYTES = 512 * 1024  # that were sent ahead, and are not
CONTENT_LENGTH, MOST_DIGITS = b"content-length", 18
SLICE_BYTES = 1024  # parsed at once, unless a body is known to be longer: it may hold fifty requests
FAREWELL_S = 2.0  # for a client that was refused to read why, before the connection is cut
RETRY_S = 5.0


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, connections: Connections, **arguments: Any) -> None:  # Any: uvicorn's
        super().__init__(**arguments)
        self._all = connections
        self._limits = connections.limits
        self._refused = False  # what comes is not looked at any more
        self._in_body = False  # a head has come whole, the message has not
        self._head_bytes = 0
        self._heads = 0
        self._header_bytes = 0  # of this head, as parsed
        self._declared_bytes = 0  # of the body, by its head
        self._body_bytes = 0
        self._body_parts = 0
        self._framing_bytes = 0
        self._ahead = b""  # what has come and is not parsed yet
        self._fault: tuple[RequestError, Cut] | None = None  # why the parser was stopped
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
        self._refused = True
        self._keep_ahead(b"")
        self._disarm()
        self._disarm_send()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unset_keepalive_if_required()
        if self._ahead:
            self._hold_back(self._ahead + data)
        else:
            self._parse_ahead(data if self._in_body else without_upgrade(data))

    def _parse_ahead(self, data: bytes) -> None:
        """Parses slice by slice, and holds back what is left once enough requests wait."""
        left = memoryview(data)
        while left and not self._refused:
            if len(self.pipeline) >= MOST_AHEAD:
                self._hold_back(bytes(left))
                return
            size = max(SLICE_BYTES, self._declared_bytes - self._body_bytes if self._in_body else 0)
            self._parse(left[:size])
            left = left[size:]

    def _hold_back(self, data: bytes) -> None:
        self._keep_ahead(data)
        self.flow.pause_reading()
        if len(data) > MAX_AHEAD_BYTES or self._all.ahead_bytes > MOST_AHEAD_BYTES:
            self._refuse(too_many_ahead(MAX_AHEAD_BYTES), Cut.AHEAD)

    def _keep_ahead(self, data: bytes) -> None:
        self._all.ahead_bytes += len(data) - len(self._ahead)
        self._ahead = data

    def _go_on(self) -> None:
        """A request has been answered: there may be room for the next ones."""
        self._unset_keepalive_if_required()
        data = self._ahead
        self._keep_ahead(b"")
        self._parse_ahead(data)

    def _parse(self, data: memoryview) -> None:
        heads, body_bytes, was_in_body = self._heads, self._body_bytes, self._in_body
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            invalid = InvalidRequest("this is no valid HTTP/1.1 request", code="invalid_http"), Cut.INVALID
            self._refuse(*self._fault or invalid)
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

    def on_message_begin(self) -> None:
        self._header_bytes = self._declared_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count_header(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_header(len(name) + len(value) + BYTES_PER_HEADER)
        if self._in_body:
            return  # trailers are for nobody here
        if len(name) == len(CONTENT_LENGTH) and name.lower() == CONTENT_LENGTH and value.isdigit():
            self._declared_bytes = int(value[:MOST_DIGITS])
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._disarm()
        self._in_body = True
        self._heads += 1
        self._head_bytes = self._body_bytes = self._body_parts = self._framing_bytes = 0
        if self.parser.should_upgrade():  # what of it came in parts, or with the request before
            self._stop(InvalidRequest("Upgrade cannot be ignored here: leave it out", code="invalid_http"), Cut.INVALID)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._body_parts += 1
        if self._body_parts > MAX_PARTS + self._body_bytes // BYTES_PER_PART:
            self._stop(tiny_parts(BYTES_PER_PART), Cut.INVALID)
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
        if self._ahead and not self._refused and not self.transport.is_closing():
            self.flow.pause_reading()
            self.loop.call_soon(self._go_on)
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
            self._refuse(slow_head(self._limits.head_timeout_s), Cut.SLOW_HEAD)

    def _count_head(self, size: int) -> None:
        """A part of a head has come, or what may become one."""
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(large_head(MAX_HEAD_BYTES), Cut.LARGE_HEAD)
        elif size and self._deadline is None:
            self._await_head()

    def _count_header(self, size: int) -> None:
        """What is in one read never comes in parts."""
        self._header_bytes += size
        if self._header_bytes > MAX_HEAD_BYTES:
            self._stop(large_head(MAX_HEAD_BYTES), Cut.LARGE_HEAD)

    def _stop(self, error: RequestError, reason: Cut) -> NoReturn:
        """Within the parser's calls: nothing more is parsed, and the connection is refused."""
        self._fault = error, reason
        raise ValueError(reason)

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
        self.transport.write(encoded(error, self.server_state.default_headers))
        self.transport.write_eof()
        self._arm(FAREWELL_S, self.transport.abort)

    def _cut(self, reason: Cut) -> None:
        """Ends the connection at once; what waits to be sent is dropped."""
        self._all.count_cut(reason)
        self._refused = True
        self._disarm()
        self.transport.abort()
