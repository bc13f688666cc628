"""Who is let in, what those are told who are not, and what a key may do."""

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.types import Message

from app.api import errors
from app.api.auth import OPEN, KeyCheck, caller_of, owner_of, require_admin
from app.api.limit_headers import duration
from app.dispatch.backlog import Backlog
from app.dispatch.item import EVERYBODY, Flow, Item, Owner
from app.keys.key import KeyLimits
from app.keys.ring import Caller, KeyRing
from app.keys.store import KeysFile
from engines.contract.protocol import PromptKind

LIMITS = KeyLimits(max_waiting_items=5, requests_per_s=2)


class Answer:
    """What was sent."""

    def __init__(self, messages: list[Message]) -> None:
        self.status: int = messages[0]["status"]
        self.headers = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
        self.body: dict[str, Any] = json.loads(b"".join(message.get("body", b"") for message in messages[1:]))

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.body["error"]
        return found


class Door:
    """An application behind its check: /who says who asks, /admin is for admins, and the open paths are there."""

    def __init__(self, file: KeysFile | None) -> None:
        self.backlog = Backlog(100)
        self.bodies_read = 0
        app = FastAPI(openapi_url=None)
        errors.install(app)
        app.add_api_route("/who", self._who, methods=["GET", "POST"])
        app.add_api_route("/admin", self._admin, methods=["POST"])
        for path in OPEN:
            app.add_api_route(path, self._who)
        self._app = KeyCheck(app, KeyRing(file) if file else None, self.backlog)

    async def _who(self, request: Request) -> dict[str, Any]:
        caller = caller_of(request)
        return {"key": caller.key.name if caller.key else None, "admin": caller.is_admin}

    async def _admin(self, request: Request) -> dict[str, Any]:
        require_admin(request)
        return {"done": True}

    def ask(
        self,
        path: str,
        secret: str | None = None,
        method: str = "GET",
        authorization: str | None = None,
        x_api_key: str | None = None,
    ) -> Answer:
        header = authorization if authorization is not None else f"Bearer {secret}" if secret else None
        headers = [] if header is None else [(b"authorization", header.encode("latin-1"))]
        headers += [] if x_api_key is None else [(b"x-api-key", x_api_key.encode())]
        return Answer(asyncio.run(self._run(path, method, headers)))

    async def _run(self, path: str, method: str, headers: Iterable[tuple[bytes, bytes]]) -> list[Message]:
        sent: list[Message] = []

        async def receive() -> Message:
            self.bodies_read += 1
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {"type": "http", "method": method, "path": path, "headers": list(headers), "query_string": b""}
        await self._app(scope | {"server": ("a", 80)}, receive, send)
        return sent


@pytest.fixture
def file(tmp_path: Path) -> KeysFile:
    return KeysFile(tmp_path / "keys.json")


# ---------------------------------------------------------------- 401


def test_a_key_opens_and_says_whose_it_is(file: KeysFile) -> None:
    plain, boss = file.create("plain"), file.create("boss", admin=True)
    door = Door(file)
    assert door.ask("/who", plain.secret).body == {"key": "plain", "admin": False}
    assert door.ask("/who", boss.secret).body == {"key": "boss", "admin": True}
    assert door.ask("/who", authorization=f"bearer   {plain.secret} ").status == 200


def test_a_key_may_stand_where_anthropics_clients_put_it(file: KeysFile) -> None:
    plain, boss = file.create("plain"), file.create("boss", admin=True)
    door = Door(file)
    assert door.ask("/who", x_api_key=plain.secret).body == {"key": "plain", "admin": False}
    assert door.ask("/who", boss.secret, x_api_key=plain.secret).body["key"] == "boss"
    for wrong in ("", " ", "phx-unknown"):
        assert door.ask("/who", x_api_key=wrong).status == 401


@pytest.mark.parametrize("path", ["/who", "/nothing", "/health/", "/HEALTH", "//health", "/docs/", "/metrics", "/"])
def test_every_path_needs_a_key(file: KeysFile, path: str) -> None:
    file.create("one")
    for method in ("GET", "POST", "OPTIONS", "HEAD"):
        answer = Door(file).ask(path, method=method)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert (answer.error["code"], answer.error["param"]) == ("invalid_api_key", "Authorization")


@pytest.mark.parametrize(
    ("authorization", "said"),
    [
        (None, "there is no API key: send the header Authorization: Bearer KEY"),
        ("", "has another form than Bearer KEY"),
        ("Bearer", "has another form than Bearer KEY"),
        ("Bearer ", "has another form than Bearer KEY"),
        ("Basic dXNlcjpwYXNz", "has another form than Bearer KEY"),
        ("phx-secret", "has another form than Bearer KEY"),
        ("Bearer phx-secret", "is unknown here, or was revoked"),
        ("Bearer \xff\x00", "is unknown here, or was revoked"),
    ],
)
def test_what_is_wrong_with_a_key_is_said_without_it(file: KeysFile, authorization: str | None, said: str) -> None:
    file.create("one")
    error = Door(file).ask("/who", authorization=authorization).error
    assert said in error["message"]
    assert (error["code"], error["type"]) == ("invalid_api_key", "invalid_request_error")
    assert "phx-secret" not in error["message"]


def test_probes_and_documentation_need_none_and_give_no_rights(file: KeysFile) -> None:
    file.create("one")
    for path in OPEN:
        assert Door(file).ask(path).body == {"key": None, "admin": False}
        assert Door(file).ask(path, "wrong").status == 200


def test_an_admin_is_known_where_no_key_is_needed_and_limited_nowhere_there(file: KeysFile) -> None:
    boss = file.create("boss", admin=True, limits=KeyLimits(requests_per_s=1))
    door = Door(file)
    for _ in range(5):
        answer = door.ask("/health", boss.secret)
        assert answer.body == {"key": "boss", "admin": True}
        assert not [name for name in answer.headers if name.startswith("x-ratelimit-")]


def test_a_file_without_keys_lets_nobody_in(file: KeysFile) -> None:
    new = file.create("one")
    file.revoke("one")
    assert Door(file).ask("/who", new.secret).status == 401


def test_without_keys_everybody_is_the_operator() -> None:
    door = Door(None)
    assert door.ask("/who").body == {"key": None, "admin": True}
    assert door.ask("/who", "whatever").body == {"key": None, "admin": True}
    assert door.ask("/admin", method="POST").status == 200
    assert not [name for name in door.ask("/who").headers if name.startswith("x-ratelimit-")]


def test_an_application_without_its_check_lets_nobody_in() -> None:
    request = Request({"type": "http", "method": "GET", "path": "/", "headers": []})
    with pytest.raises(TypeError, match="without its check of API keys"):
        require_admin(request)


# ---------------------------------------------------------------- 403


def test_an_admins_path_needs_an_admins_key(file: KeysFile) -> None:
    plain, boss = file.create("plain"), file.create("boss", admin=True)
    door = Door(file)
    refused = door.ask("/admin", plain.secret, "POST")
    assert (refused.status, refused.error["code"]) == (403, "admin_key_required")
    assert f"POST /admin needs an admin's API key, and {plain.key.id} (plain) is none" in refused.error["message"]
    assert "www-authenticate" not in refused.headers
    assert door.ask("/admin", boss.secret, "POST").body == {"done": True}
    assert door.ask("/admin", method="POST").status == 401


# ---------------------------------------------------------------- limits


def test_more_requests_than_allowed_are_429_and_their_bodies_are_not_read(file: KeysFile) -> None:
    slow = file.create("slow", limits=KeyLimits(requests_per_s=0.01))
    other = file.create("other")
    door = Door(file)
    assert door.ask("/who", slow.secret, "POST").status == 200
    before = door.bodies_read
    refused = door.ask("/who", slow.secret, "POST")
    assert (refused.status, refused.error["code"], refused.error["type"]) == (
        429,
        "rate_limit_exceeded",
        "rate_limit_error",
    )
    assert refused.headers["retry-after"] == "60" and 90 < refused.error["retry_after_s"] <= 100
    assert "may send 0.01 requests a second" in refused.error["message"]
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert door.bodies_read == before
    assert door.ask("/nothing", slow.secret).status == 429  # whatever it asks for
    assert door.ask("/health", slow.secret).status == 200
    assert door.ask("/who", other.secret).status == 200


def test_answers_say_what_is_left(file: KeysFile) -> None:
    new = file.create("one", limits=LIMITS)
    door = Door(file)
    owner = Owner(new.key.id)
    flow = Flow(0, owner)
    sink: Any = None  # nothing is dispatched
    items = [Item(sink, flow, index, PromptKind.TEXT, b'"x"', b"", prompt_tokens=1, max_tokens=1) for index in range(3)]
    door.backlog.add(flow, items)
    headers = door.ask("/who", new.secret).headers
    assert headers["x-ratelimit-limit-requests"] == "2"
    assert headers["x-ratelimit-remaining-requests"] == "1"
    assert headers["x-ratelimit-reset-requests"].endswith("ms")
    assert headers["x-ratelimit-limit-items"] == "5"
    assert headers["x-ratelimit-remaining-items"] == "2"
    door.backlog.discard(flow)
    assert door.ask("/nothing", new.secret).headers["x-ratelimit-remaining-items"] == "5"  # on errors, too


def test_a_key_without_limits_is_told_of_none(file: KeysFile) -> None:
    new = file.create("one")
    assert not [name for name in Door(file).ask("/who", new.secret).headers if name.startswith("x-ratelimit-")]


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0, "0ms"), (0.0201, "21ms"), (0.5, "500ms"), (1, "1s"), (3.51, "3.6s"), (59.99, "1m0s"), (130.2, "2m10.2s")],
)
def test_times_are_written_as_openai_does(seconds: float, written: str) -> None:
    assert duration(seconds) == written


def test_a_callers_work_is_shared_out_by_its_key(file: KeysFile) -> None:
    key = file.create("one", weight=3, limits=LIMITS).key
    assert owner_of(Caller(key)) == Owner(key.id, 3, 5)
    assert owner_of(Caller()) is EVERYBODY
