"""Every error answer in OpenAI's shape, FastAPI's own included; in Anthropic's on the paths of its API."""

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import Scope

from app.api import anthropic_errors
from app.api.refusals import log_refusal
from app.api.request_id import REQUEST_ID
from app.errors import (
    ErrorAnswer,
    GatewayFailed,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RequestError,
    body_of,
)
from app.journal.errors import JournalError
from app.journal.refusals import refusal_of
from app.validation import short

_encode = msgspec.json.Encoder().encode


def answer(error: RequestError, scope: Scope | None = None) -> Response:
    """The HTTP answer of an error; without a scope, of what was no request."""
    response = Response(_content(error, scope), error.status, error.headers, "application/json")
    if scope is not None and _is_anthropics(scope):
        response.headers[anthropic_errors.REQUEST_ID_HEADER] = scope[REQUEST_ID]
    return response


def event(error: RequestError, scope: Scope) -> bytes:
    """The last event of a stream that has failed."""
    name = b"event: error\n" if _is_anthropics(scope) else b""
    return name + b"data: " + _content(error, scope) + b"\n\n"


def refusal(scope: Scope, error: RequestError) -> Response:
    """The same, and a line in the log."""
    log_refusal(scope, error)
    return answer(error, scope)


def internal_error(scope: Scope) -> Response:
    """The answer when the fault is ours; the log has the traceback."""
    return answer(GatewayFailed(), scope)


def install(app: FastAPI) -> None:
    """Lets all errors of an application answer in this shape."""

    async def on_request_error(request: Request, error: Exception) -> Response:
        scope = request.scope
        return refusal(scope, error) if isinstance(error, RequestError) else internal_error(scope)

    async def on_journal_error(request: Request, error: Exception) -> Response:
        scope = request.scope
        return refusal(scope, refusal_of(error)) if isinstance(error, JournalError) else internal_error(scope)

    async def on_http_exception(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            return internal_error(request.scope)
        response = refusal(request.scope, _translate(request, error))
        response.status_code = error.status_code
        response.headers.update(error.headers or {})
        if error.status_code == 405:
            response.headers["allow"] = _allowed(app, request)
        return response

    async def on_validation_error(request: Request, error: Exception) -> Response:
        first = error.errors()[0] if isinstance(error, RequestValidationError) else {"loc": ("?",), "msg": str(error)}
        name = str(first["loc"][-1])
        return refusal(request.scope, InvalidRequest(f"{name}: {first['msg']}", param=name))

    async def on_failure(request: Request, _: Exception) -> Response:
        return internal_error(request.scope)  # and whoever serves the application hears of it, too, and logs it

    app.add_exception_handler(Exception, on_failure)
    app.add_exception_handler(RequestError, on_request_error)
    app.add_exception_handler(JournalError, on_journal_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(RequestValidationError, on_validation_error)


def _content(error: RequestError, scope: Scope | None) -> bytes:
    if scope is not None and _is_anthropics(scope):
        return anthropic_errors.encoded(error, scope[REQUEST_ID])
    return _encode(ErrorAnswer(body_of(error)))


def _is_anthropics(scope: Scope) -> bool:
    return scope["path"] in anthropic_errors.PATHS


def _allowed(app: FastAPI, request: Request) -> str:
    """Every method of a path: each has a route of its own, and the router names those of the first one only."""
    matching = (route for route in app.routes if isinstance(route, Route))
    methods = {
        method
        for route in matching
        if route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }
    return ", ".join(sorted(methods))


def _translate(request: Request, error: HTTPException) -> RequestError:
    path = short(request.url.path)
    if error.status_code == 404:
        remedy = "leave out the slash at its end; " if request.url.path.endswith("/") and path != "/" else ""
        return NotFound(f"there is nothing at {path}: {remedy}/docs lists what there is", code="path_not_found")
    if error.status_code == 405:
        return MethodNotAllowed(f"{request.method} is not allowed on {path}", code="method_not_allowed")
    return InvalidRequest(str(error.detail), code="invalid_request")
