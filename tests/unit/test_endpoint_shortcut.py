"""Exchanges past FastAPI: the answers are those that vLLM's application gives, without its routing."""

import asyncio
import json
from typing import Annotated, Any

import pytest
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

from engines.vllm_engine.exchanges.call import Message
from engines.vllm_engine.exchanges.shortcut import Shortcut

Answer = tuple[int, dict[bytes, bytes], bytes]


class Body(BaseModel):
    do: str = ""
    count: Annotated[int, Field(ge=0)] = 0


def application(routed: list[bool]) -> FastAPI:
    """With an endpoint of vLLM's form."""
    app = FastAPI()
    app.exception_handler(ValueError)(unwell)
    app.exception_handler(Exception)(unwell)

    @app.post("/direct")
    async def answer(request: Body, raw_request: Request) -> Any:
        routed.append("route" in raw_request.scope)
        assert raw_request.app is app
        match request.do:
            case "stream":
                return StreamingResponse(iter([b"a", b"b"]), media_type="text/event-stream")
            case "refuse":
                raise HTTPException(418, "no")
            case "value":
                raise ValueError("a value")
            case "bug":
                raise LookupError("a bug")
            case "plain":
                return {"count": request.count}
        return JSONResponse(request.model_dump(), 201)

    @app.post("/more")
    async def more(request: Body, raw_request: Request, page: int = 0) -> int:
        routed.append("route" in raw_request.scope)
        return page

    @app.post("/direct")
    async def second(request: Body, raw_request: Request) -> int:
        raise AssertionError("the first of two answers")

    return app


async def unwell(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"path": request.url.path, "error": str(error)}, 499)


async def ask(app: Any, path: str, body: bytes) -> Answer:
    """Its answer, whole, or up to where it fails."""
    head: Message = {"status": 0, "headers": []}
    received: list[bytes] = []
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else await asyncio.Event().wait() or {}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            head.update(message)
        else:
            received.append(message["body"])

    headers = [(b"host", b"x"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b"", "state": {}}
    async with asyncio.timeout(10):
        try:
            await app(scope | {"asgi": {"version": "3.0", "spec_version": "2.3"}}, receive, send)
        except LookupError as error:
            received.append(repr(error).encode())
    return head["status"], dict(head["headers"]), b"".join(received)


@pytest.mark.parametrize("do", ["", "stream", "refuse", "value", "bug", "plain"])
def test_an_endpoint_answers_as_the_application_does(do: str) -> None:
    routed: list[bool] = []
    app, body = application(routed), json.dumps({"do": do, "count": 3}).encode()
    wanted = asyncio.run(ask(app, "/direct", body))
    assert wanted[0] > 0
    assert asyncio.run(ask(Shortcut(app), "/direct", body)) == wanted
    assert routed == [True, False]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/direct", b'{"count": -1}'),
        ("/direct", b"{"),
        ("/direct", b""),
        ("/direct", b'"\xff"'),
        ("/direct", b"[" * 100_000),
        ("/more", b"{}"),
        ("/none", b"{}"),
    ],
)
def test_what_no_endpoint_takes_the_application_answers(path: str, body: bytes) -> None:
    routed: list[bool] = []
    app = application(routed)
    wanted = asyncio.run(ask(app, path, body))
    assert asyncio.run(ask(Shortcut(app), path, body)) == wanted
    assert all(routed)
