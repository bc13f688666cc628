"""How an answer goes over the wire, where uvicorn would do it otherwise: its framing, and the end of its connection."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from uvicorn._types import (
    ASGI3Application,
    ASGIReceiveCallable,
    ASGISendCallable,
    ASGISendEvent,
    HTTPResponseStartEvent,
    Scope,
)
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.api.leaving import LEAVING, Leaving
from app.errors import BrokenOff
from app.logs import get_logger

logger = get_logger("http")
HEAD = b"HTTP/1."  # how one begins; a body that does so, too, waits no longer than a turn


class AnswerTransport(asyncio.Transport):
    """A connection as uvicorn's cycle of one request and its answer uses it; its end is the protocol's to decide.

    uvicorn writes an answer's head by itself, and uvloop sends at once what is written: two calls of the system, and
    two packets that wake the client. So a head waits for the body that follows it in the same turn of the loop.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, close: Callable[[], None]
    ) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._close = close
        self._head: bytes | bytearray | memoryview = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sends it, unless the connection has ended: uvloop raises then, and the cycle hears of it a moment later."""
        if self._transport.is_closing():
            return
        if self._head:
            head, self._head = self._head, b""
            self._transport.writelines((head, data))
        elif data[: len(HEAD)] == HEAD:
            self._head = data
            self._loop.call_soon(self.flush)
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Sends a head that no body has followed."""
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():
            self._transport.write(head)

    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._transport.is_closing()

    def close(self) -> None:
        """There is no other answer after this one."""
        self.flush()
        self._close()


def is_old(version: str) -> bool:
    """Whether HTTP of this version has neither chunks nor `100 Continue`, and keeps connections only when asked."""
    return version < "1.1"


def framed(app: ASGI3Application, cycle: RequestResponseCycle) -> ASGI3Application:
    """The application, whose answer is framed as the client of this request can read it."""
    _extras(cycle)[LEAVING] = Leaving()
    is_plain = not is_old(cycle.scope["http_version"]) and not cycle.waiting_for_100_continue
    return _ending(app if is_plain else _Framing(app, cycle), cycle)


def tell_gone(cycle: RequestResponseCycle) -> None:
    """Whoever reads the request, or waits to answer it, hears that the client is gone."""
    if not cycle.response_complete:
        cycle.disconnected = True
        cycle.message_event.set()
        if LEAVING in _extras(cycle):  # else its turn never came
            _extras(cycle)[LEAVING].tell()


def _extras(cycle: RequestResponseCycle) -> dict[str, Any]:  # Any: what an application puts there
    """The scope, which ASGI lets hold more than uvicorn's type says."""
    return cast("dict[str, Any]", cycle.scope)


def _ending(app: ASGI3Application, cycle: RequestResponseCycle) -> ASGI3Application:
    """The application, whose answer ends with its connection when it cannot be completed."""

    async def serve(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        try:
            await app(scope, receive, send)
        except BrokenOff as error:
            logger.warning("answer_broken_off", reason=str(error))
            cycle.disconnected = True
            cycle.transport.close()

    return serve


class _Framing:
    """An answer to HTTP/1.0 ends with the connection when its length is not known.

    A client that waits for `100 Continue` and is refused sends its body, or another request. Nobody could tell which
    of them comes, so the connection ends.
    """

    def __init__(self, app: ASGI3Application, cycle: RequestResponseCycle) -> None:
        self._app = app
        self._cycle = cycle
        self._is_ended_by_close = False

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        async def send_framed(message: ASGISendEvent) -> None:
            if message["type"] == "http.response.start":
                self._begin(message)
            elif message["type"] == "http.response.body" and self._is_ended_by_close:
                self._cycle.expected_content_length = len(message.get("body", b""))  # as uvicorn asks
            await send(message)

        await self._app(scope, receive, send_framed)

    def _begin(self, start: HTTPResponseStartEvent) -> None:
        cycle, headers = self._cycle, list(start.get("headers", []))
        if cycle.waiting_for_100_continue and cycle.more_body:
            cycle.keep_alive = False
        if not is_old(cycle.scope["http_version"]):
            return
        names = {name.lower() for name, _ in headers}
        if b"content-length" not in names:
            self._is_ended_by_close = True
            cycle.chunked_encoding = False
            cycle.keep_alive = False
        elif cycle.keep_alive and b"connection" not in names:
            start["headers"] = [*headers, (b"connection", b"keep-alive")]
