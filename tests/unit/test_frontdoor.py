"""Request ids, and the names that a server on loopback goes by."""

import asyncio
import json
import re
from collections.abc import Iterable
from typing import Any

import pytest
import structlog
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.frontdoor import Frontdoor, allowed_hosts
from app.metrics import Metrics
from app.settings.checks import is_loopback

Headers = Iterable[tuple[bytes, bytes]]


class Answer:
    """What was sent."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            assert self.status == 0
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)["error"]
        return found


def ask(
    headers: Headers = (), app: ASGIApp | None = None, hosts: frozenset[str] | None = None, method: str = "GET"
) -> Answer:
    """Sends a request through the door; without an app, what is behind it answers 200."""
    answer = Answer()
    scope = {"type": "http", "method": method, "path": "/x", "headers": list(headers), "query_string": b""}

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    door = Frontdoor(app or PlainTextResponse("fine"), Metrics("1"), hosts)
    asyncio.run(door(scope, receive, answer.send))
    return answer


# ---------------------------------------------------------------- request ids


@pytest.mark.parametrize("given", ["a", "req-1", "b0f3.7:9/x=@+_-", "0" * 128])
def test_a_safe_request_id_is_kept(given: str) -> None:
    assert ask([(b"x-request-id", given.encode())]).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "two words", "a\tb", "<b>", '"', "0" * 129, "é", "a\n"])
def test_an_unsafe_request_id_is_replaced(given: str) -> None:
    found = ask([(b"x-request-id", given.encode("latin-1"))]).headers["x-request-id"]
    assert re.fullmatch(r"req-[0-9a-f]{32}", found)


def test_every_answer_has_an_id_of_its_own() -> None:
    assert ask().headers["x-request-id"] != ask().headers["x-request-id"]
    assert "x-request-id" in ask([(b"host", b"evil")], hosts=frozenset({"localhost"})).headers


def test_nothing_of_an_earlier_request_is_logged_with_this_one() -> None:
    """A pipelined request begins in the context of the one before it, which may have shown a key."""
    seen: dict[str, Any] = {}

    async def look(scope: Scope, receive: Receive, send: Send) -> None:
        seen.update(structlog.contextvars.get_contextvars())
        await PlainTextResponse("fine")(scope, receive, send)

    with structlog.contextvars.bound_contextvars(api_key_id="key-of-another", request_id="r-1"):
        ask([(b"x-request-id", b"r-2")], app=look)
    assert seen == {"request_id": "r-2"}


# ---------------------------------------------------------------- hosts


@pytest.mark.parametrize(
    ("bind", "is_one"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104  compared, not bound
        ("::", False),
        ("10.0.0.1", False),
        ("gpu-1", False),
    ],
)
def test_loopback_is_recognised(bind: str, is_one: bool) -> None:
    assert is_loopback(bind) is is_one
    assert (allowed_hosts(bind, []) is not None) is is_one


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("localhost", True),
        ("localhost:8000", True),
        ("LocalHost:8000", True),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("[::1]", True),
        ("", False),
        ("evil.example", False),
        ("evil.example:8000", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("[::2]:8000", False),
        ("10.0.0.1", False),
    ],
)
def test_on_loopback_only_its_own_names_are_let_in(host: str, is_allowed: bool) -> None:
    found = ask([(b"host", host.encode())], hosts=allowed_hosts("127.0.0.1", []))
    assert (found.status == 200) is is_allowed
    if not is_allowed:
        assert (found.status, found.error["param"], found.error["code"]) == (400, "Host", "host_not_allowed")
        assert repr(host) in found.error["message"] and "--allowed-hosts" in found.error["message"]


def test_more_names_can_be_allowed_and_then_no_others_are() -> None:
    hosts = allowed_hosts("0.0.0.0", ["GPU-1.example"])  # noqa: S104  compared, not bound
    assert ask([(b"host", b"gpu-1.example:8000")], hosts=hosts).status == 200
    assert ask([(b"host", b"localhost")], hosts=hosts).status == 200
    assert ask([(b"host", b"other")], hosts=hosts).status == 400


HOST = (b"host", b"127.0.0.1:8000")


@pytest.mark.parametrize(
    "headers",
    [
        [(b"sec-fetch-site", b"cross-site")],
        [(b"sec-fetch-site", b"same-site")],  # another port of this machine is the same site
        [(b"origin", b"https://evil.example")],
        [(b"origin", b"http://127.0.0.1:3000")],
        [(b"origin", b"null")],
        [(b"sec-fetch-site", b"cross-site"), (b"origin", b"http://127.0.0.1:8000")],
    ],
)
def test_a_page_of_another_site_can_look_and_change_nothing(headers: list[tuple[bytes, bytes]]) -> None:
    for method in ("POST", "PUT", "DELETE"):
        answer = ask([HOST, *headers], method=method)
        assert (answer.status, answer.error["code"]) == (403, "cross_site_request")
    assert ask([HOST, *headers]).status == 200  # it cannot read what it gets


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"sec-fetch-site", b"same-origin"), (b"origin", b"https://behind.a.proxy")],
        [(b"sec-fetch-site", b"none")],
        [(b"origin", b"http://127.0.0.1:8000")],
    ],
)
def test_programs_and_its_own_pages_may(headers: list[tuple[bytes, bytes]]) -> None:
    assert ask([HOST, *headers], method="POST").status == 200


def test_off_loopback_every_name_is_let_in() -> None:
    hosts = allowed_hosts("0.0.0.0", [])  # noqa: S104  compared, not bound
    assert ask([(b"host", b"anything")], hosts=hosts).status == 200
    assert ask([], hosts=hosts).status == 200


# ---------------------------------------------------------------- faults of ours


def test_a_fault_before_the_answer_is_a_500_in_the_same_shape() -> None:
    async def broken(_: Scope, __: Receive, ___: Send) -> None:
        raise ValueError("a secret")

    found = ask([(b"x-request-id", b"r-1")], app=broken)
    assert (found.status, found.headers["x-request-id"]) == (500, "r-1")
    assert (found.error["type"], found.error["code"]) == ("internal_server_error", "internal_error")
    assert b"secret" not in found.body


def test_a_fault_within_the_answer_ends_the_connection() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("too late for a 500")

    with pytest.raises(ValueError, match="too late"):
        ask(app=broken)
