"""Calls the endpoints of vLLM's application as FastAPI calls them, past what FastAPI does around each call.

Middleware, routing and dependencies took a sixth of a rank's time for a short answer, and decide nothing here: the path
and the content type are ours. Whatever an endpoint does not take, the application itself answers.
"""

import inspect
import json
import typing
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from fastapi import Request
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse, Response
from pydantic import TypeAdapter

from engines.vllm_engine.exchanges.call import Message

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Scope = dict[str, Any]


class Endpoint(NamedTuple):
    """What answers a path: a coroutine function of the body, checked, and of the request."""

    call: Callable[..., Awaitable[Any]]
    body: str  # the names of its parameters
    request: str
    check: Callable[[Any], Any]  # of what the JSON holds; raises ValidationError


class Shortcut:
    """An ASGI application in front of vLLM's own, whose answers it gives."""

    def __init__(self, application: Any) -> None:  # Any: vLLM's FastAPI
        self._application = application
        self._endpoints = endpoints(application)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get(scope["path"])
        if endpoint is None:
            await self._application(scope, receive, send)
            return
        first = await receive()
        try:
            body = endpoint.check(json.loads(first["body"]))
        except Exception:  # noqa: BLE001  how that is told, and whether, is the application's
            await self._application(scope, _after(first, receive), send)
            return
        scope["app"] = self._application
        request = Request(scope, receive, send)
        try:
            response = _as_response(await endpoint.call(**{endpoint.body: body, endpoint.request: request}))
        except Exception as error:
            handlers = self._application.exception_handlers
            kind = next((kind for kind in type(error).__mro__ if kind in handlers), None)
            if kind is None:
                raise
            response = await handlers[kind](request, error)
            await response(scope, receive, send)
            if kind is Exception:  # answered, and nobody's fault but the application's
                raise
        else:
            await response(scope, receive, send)


def endpoints(application: Any) -> dict[str, Endpoint]:
    """By their paths: those that are given a body and the request, and nothing else."""
    found: dict[str, Endpoint | None] = {}
    for route in application.routes:
        if "POST" in (getattr(route, "methods", None) or ()):
            found.setdefault(route.path, _endpoint(route.endpoint))  # of two with one path, the first answers
    return {path: endpoint for path, endpoint in found.items() if endpoint is not None}


def _endpoint(function: Any) -> Endpoint | None:
    hints = typing.get_type_hints(function, include_extras=True)
    kinds: dict[str, Any] = {name: hints.get(name) for name in inspect.signature(function).parameters}
    requests = [name for name, kind in kinds.items() if kind is Request]
    bodies = [name for name, kind in kinds.items() if kind is not Request]
    if len(requests) != 1 or len(bodies) != 1 or not inspect.iscoroutinefunction(function):
        return None
    check = TypeAdapter(kinds[bodies[0]]).validate_python
    return Endpoint(function, bodies[0], requests[0], check)


def _after(first: Message, receive: Receive) -> Receive:
    """As `receive`, from its first message on."""
    messages = [first]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


def _as_response(answer: Any) -> Response:
    return answer if isinstance(answer, Response) else JSONResponse(jsonable_encoder(answer))
