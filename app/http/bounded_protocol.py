"""What a client may do to a connection, and for how long: uvicorn's own protocol bounds none of it.

A head has to come within a deadline and a size; what comes between the data of a body (framing of chunks, trailers),
and in how many parts, is bounded by the data; requests that are sent ahead of their turn are not looked at until few
are before them; a body that nobody reads any more, since its request has been answered, has to end; an answer has to
be taken once its request has come whole. Otherwise the connection is cut, and what it held is free. How fast a body
comes is the business of app/api. Connections beyond the bound are answered 503 before they have asked anything.

A connection is closed in two steps while a request still comes: the kernel would answer what nobody reads with a
reset, and a client that is still sending would lose the answer that it was refused with.

A wish for another protocol (`Upgrade: h2c`, as some clients send with every request) is ignored, as HTTP allows. The
parser would take what follows for that protocol, which drops the body and runs what is in it as a request.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.errors import RequestError, TryLater
from app.http.answers import AnswerTransport, framed, is_old, tell_gone
from app.http.connections import FAREWELLS, MOST_AHEAD_BYTES, Connections, Cut
from app.http.message_bounds import MessageBounds, OutOfBounds
from app.http.text import encoded, invalid_http, slow_head, too_many_ahead, without_upgrade

MOST_AHEAD = 8  # requests on one connection that wait for the one before them, and are parsed
MAX_AHEAD_BYTES = 512 * 1024  # that were sent ahead, and are not
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
        self._message = MessageBounds()
        self._running: RequestResponseCycle | None = None  # which is not self.cycle once a request has come behind it
        self._ahead = b""  # what has come and is not parsed yet
        self._deadline: asyncio.TimerHandle | None = None  # for the client to send what it has to
        self._send_deadline: asyncio.TimerHandle | None = None

    # -- the transport's calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._answers = AnswerTransport(transport, self.loop, self._close)
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
        if self._running is not None:
            tell_gone(self._running)
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
            size = max(SLICE_BYTES, self._message.missing_bytes if self._in_body else 0)
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
        message = self._message
        heads, body_bytes, was_in_body = message.heads, message.body_bytes, self._in_body
        try:
            self.parser.feed_data(data)
            if not self._in_body:
                self._count_head(len(data) if heads == message.heads and not was_in_body else 0)
            elif was_in_body and heads == message.heads:
                message.count_framing(len(data) - (message.body_bytes - body_bytes))
        except OutOfBounds as excess:
            self._refuse(excess.error, excess.reason)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            cause = error.__context__  # what one of the parser's calls has raised
            if isinstance(cause, OutOfBounds):
                self._refuse(cause.error, cause.reason)
            else:
                self._refuse(invalid_http("this is no valid HTTP/1.1 request"), Cut.INVALID)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._disarm_send()

    # -- the parser's calls

    def on_message_begin(self) -> None:
        self._message.begin()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._message.count_url(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._message.count_header(name, value)
        if self._in_body:
            return  # trailers are for nobody here
        self._message.declare(name, value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._disarm()
        if self.parser.should_upgrade():  # what of it came in parts, or with the request before
            raise OutOfBounds(invalid_http("Upgrade cannot be ignored here: leave it out"), Cut.INVALID)
        if is_old(self.parser.get_http_version()):
            self.expect_100_continue = False
        super().on_headers_complete()
        self.cycle.transport = self._answers
        self.cycle.keep_alive = self.parser.should_keep_alive()
        self._message.end_head()
        self._in_body = True  # from here on, self.cycle is the request whose body comes

    def on_body(self, body: bytes) -> None:
        self._message.count_body(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()
        if not self._ahead:
            self.flow.resume_reading()  # nobody asks for more of it, and a client that leaves is to be noticed
        if self.flow.write_paused:
            self._await_reader()
        if self.cycle.response_complete:
            self._disarm()
            self._stay_open()

    # -- uvicorn's calls

    def on_response_complete(self) -> None:
        if self._refused:
            return  # it was the last
        super().on_response_complete()
        if self._ahead and not self._refused and not self.transport.is_closing():
            self.flow.pause_reading()
            self.loop.call_soon(self._go_on)
        if self._in_body and not self.transport.is_closing() and not self.pipeline:
            self._arm(self._limits.body_timeout_s, lambda: self._cut(Cut.UNREAD_BODY))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        begin = super()._start_asgi_task
        self._all.begin_soon(lambda: begin(cycle, framed(app, cycle)))

    def shutdown(self) -> None:
        self._answers.flush()
        super().shutdown()

    # -- deadlines

    def _await_reader(self) -> None:
        """Many clients read nothing of an answer before they have sent all of its request."""
        if self._send_deadline is None and not (self._in_body and self._running is self.cycle):
            self._send_deadline = self.loop.call_later(self._limits.send_timeout_s, self._cut, Cut.SLOW_READER)

    def _await_head(self) -> None:
        self._arm(self._limits.head_timeout_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._deadline = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._await_head()  # it was sent ahead, while a request runs: nobody waits for it
        elif self._message.head_bytes == 0:
            self._all.count_cut(Cut.SLOW_HEAD)
            self.transport.close()
        else:
            self._refuse(slow_head(self._limits.head_timeout_s), Cut.SLOW_HEAD)

    def _count_head(self, size: int) -> None:
        """A part of a head has come, or what may become one."""
        self._message.count_head(size)
        if size and self._deadline is None:
            self._await_head()

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

    def _close(self) -> None:
        """After the last answer. What still comes is not looked at, and has to end."""
        if self.transport.is_closing() or not (self._in_body or self._ahead or self.pipeline):
            self.transport.close()
            return
        self._refused = True
        self._keep_ahead(b"")
        self.flow.resume_reading()
        self.transport.write_eof()
        self._arm(self._limits.body_timeout_s, lambda: self._cut(Cut.UNREAD_BODY))

    def _refuse(self, error: RequestError, reason: Cut) -> None:
        """Says why, and ends the connection when the client has had a moment to read it."""
        if self.transport.is_closing() or not self._is_next_answer_its_own():
            self._cut(reason)
            return
        self._all.count_cut(reason)
        self._refused = True
        self._unset_keepalive_if_required()
        if self._in_body:
            tell_gone(self.cycle)
        is_head = self.parser.get_method() == b"HEAD"
        self._answers.flush()
        self.transport.write(encoded(error, self.server_state.default_headers, is_head=is_head))
        self.flow.resume_reading()
        self.transport.write_eof()
        self._arm(FAREWELL_S, self.transport.abort)

    def _is_next_answer_its_own(self) -> bool:
        """Whether what is sent now would be taken for the answer to the request that is being received."""
        if self._in_body:
            return not self.cycle.response_started and not self.pipeline
        return self.cycle is None or self.cycle.response_complete

    def _cut(self, reason: Cut) -> None:
        """Ends the connection at once; what waits to be sent is dropped."""
        self._all.count_cut(reason)
        self._refused = True
        self._disarm()
        self.transport.abort()
