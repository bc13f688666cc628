"""What the protocol relies on in uvicorn's, whose inner methods it overrides: a change of them fails here."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.http.bounded_protocol import MOST_AHEAD, BoundedProtocol
from app.http.connections import BEGUN_AT_ONCE, ConnectionLimits, Connections
from app.metrics import Metrics

OVERRIDDEN = (
    "connection_made",
    "connection_lost",
    "data_received",
    "pause_writing",
    "resume_writing",
    "on_message_begin",
    "on_url",
    "on_header",
    "on_headers_complete",
    "on_body",
    "on_message_complete",
    "on_response_complete",
    "shutdown",
    "_start_asgi_task",
)
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
REFUSED = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 100\r\n\r\n"


class Wire(asyncio.Transport):
    """A transport without a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.calls = 0  # in which it was sent
        self.did: list[str] = []  # what was done to the connection, in order

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data
        self.calls += 1

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return "close" in self.did or "abort" in self.did

    def close(self) -> None:
        self.did.append("close")

    def abort(self) -> None:
        self.did.append("abort")

    def write_eof(self) -> None:
        self.did.append("eof")

    def pause_reading(self) -> None:
        self.did.append("pause")

    def resume_reading(self) -> None:
        self.did.append("resume")


class Server:
    """Connections to an application, and the requests that have reached it."""

    def __init__(self, app: ASGIApp, send_timeout_s: float = 60) -> None:
        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            self.begun.append(scope)
            await app(scope, receive, send)

        self.begun: list[Scope] = []
        self.connections = Connections(ConnectionLimits(1000, 60, 60, send_timeout_s), Metrics("1"))
        self._config = Config(counted, ws="none", lifespan="off", log_config=None, access_log=False)
        self._config.load()

    def connect(self) -> tuple[BoundedProtocol, Wire]:
        wire = Wire()
        state = ServerState()
        protocol = BoundedProtocol(self.connections, config=self._config, server_state=state, app_state={})
        protocol.connection_made(wire)
        return protocol, wire


def on_a_loop(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(bounded())


async def until(look: Callable[[], Any]) -> None:
    """Passes of the event loop until there is something."""
    while not look():  # noqa: ASYNC110  nothing else tells when
        await asyncio.sleep(0)


async def never(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_uvicorn_has_what_is_overridden_with_the_same_parameters(name: str) -> None:
    assert name in vars(BoundedProtocol)
    ours, theirs = (inspect.signature(vars(kind)[name]).parameters for kind in (BoundedProtocol, HttpToolsProtocol))
    assert list(ours) == list(theirs)


def test_nothing_of_uvicorns_is_overridden_unawares() -> None:
    inherited = {name for kind in HttpToolsProtocol.__mro__ for name in vars(kind) if not name.startswith("__")}
    assert {name for name in vars(BoundedProtocol) if name in inherited} == set(OVERRIDDEN)


def test_uvicorns_cycle_has_what_framing_changes() -> None:
    async def look() -> None:
        server = Server(never)
        protocol, _ = server.connect()
        protocol.data_received(REQUEST)
        cycle = protocol.cycle
        assert isinstance(cycle, RequestResponseCycle)
        known = vars(cycle).keys()
        assert known >= {"transport", "keep_alive", "chunked_encoding", "expected_content_length", "more_body"}
        assert known >= {"waiting_for_100_continue", "response_started", "disconnected", "message_event", "scope"}

    on_a_loop(look)


def test_requests_begin_some_at_a_turn() -> None:
    async def arrive() -> None:
        server = Server(never)
        for _ in range(3 * BEGUN_AT_ONCE):
            server.connect()[0].data_received(REQUEST)
        steps = []
        while len(server.begun) < 3 * BEGUN_AT_ONCE:
            before = len(server.begun)
            await asyncio.sleep(0)
            steps.append(len(server.begun) - before)
        assert max(steps) == BEGUN_AT_ONCE

    on_a_loop(arrive)


def test_requests_ahead_of_their_turn_are_parsed_up_to_a_bound() -> None:
    async def arrive() -> None:
        protocol, wire = Server(never).connect()
        protocol.data_received(REQUEST * 10_000)
        assert MOST_AHEAD <= len(protocol.pipeline) <= MOST_AHEAD + 1024 // len(REQUEST)
        assert wire.did[-1] == "pause"

    on_a_loop(arrive)


def test_the_last_answer_leaves_its_connection_half_open_while_the_request_still_comes() -> None:
    async def refuse() -> None:
        protocol, wire = Server(PlainTextResponse("no", 415)).connect()
        protocol.data_received(REFUSED + b"x" * 50)
        await until(lambda: wire.did)
        assert wire.did == ["eof"] and wire.sent.endswith(b"no")
        protocol.data_received(b"x" * 1_000_000)
        assert wire.did == ["eof"]
        protocol.connection_lost(None)

    on_a_loop(refuse)


def test_the_last_answer_closes_its_connection_at_once_when_the_request_has_come() -> None:
    async def answer() -> None:
        protocol, wire = Server(PlainTextResponse("yes")).connect()
        protocol.data_received(REFUSED + b"x" * 100)
        await until(lambda: wire.did)
        assert wire.did == ["close"] and wire.sent.endswith(b"yes")

    on_a_loop(answer)


def test_the_head_of_an_answer_goes_with_its_body() -> None:
    async def answer() -> None:
        protocol, wire = Server(PlainTextResponse("yes")).connect()
        protocol.data_received(REQUEST)
        await until(lambda: wire.sent)
        assert wire.calls == 1 and wire.sent.endswith(b"yes")

    on_a_loop(answer)


def test_a_head_without_a_body_comes_by_itself() -> None:
    async def begin(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.Event().wait()

    async def answer() -> None:
        protocol, wire = Server(begin).connect()
        protocol.data_received(REQUEST)
        await until(lambda: wire.sent)
        assert wire.sent.startswith(b"HTTP/1.1 200")

    on_a_loop(answer)


def test_a_head_that_is_all_of_an_answer_goes_before_its_connection_ends() -> None:
    async def answer() -> None:
        protocol, wire = Server(PlainTextResponse("yes")).connect()
        protocol.data_received(REQUEST.replace(b"GET", b"HEAD"))
        await until(lambda: protocol.cycle.response_complete)
        assert wire.sent == b"", "the head was sent already: nothing is shown here"
        protocol.shutdown()
        assert wire.sent.startswith(b"HTTP/1.1 200") and wire.did == ["close"]

    on_a_loop(answer)


def test_an_answer_that_is_not_taken_ends_its_connection() -> None:
    async def stall() -> None:
        protocol, wire = Server(never, send_timeout_s=0).connect()
        protocol.data_received(REQUEST)
        protocol.pause_writing()
        await until(lambda: "abort" in wire.did)
        protocol.connection_lost(None)

    on_a_loop(stall)


def test_an_answer_need_not_be_taken_before_its_request_has_come_whole() -> None:
    async def stall() -> None:
        protocol, wire = Server(never, send_timeout_s=0).connect()
        protocol.data_received(REFUSED + b"x")
        protocol.pause_writing()
        for _ in range(20):
            await asyncio.sleep(0)
        assert "abort" not in wire.did
        protocol.data_received(b"x" * 99)
        await until(lambda: "abort" in wire.did)
        protocol.connection_lost(None)

    on_a_loop(stall)


def test_a_body_that_comes_behind_an_answer_that_is_not_taken_saves_it_no_time() -> None:
    async def stall() -> None:
        protocol, wire = Server(never, send_timeout_s=0).connect()
        protocol.data_received(REQUEST + REFUSED)
        protocol.pause_writing()
        await until(lambda: "abort" in wire.did)
        protocol.connection_lost(None)

    on_a_loop(stall)
