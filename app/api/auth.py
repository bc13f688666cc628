"""Who may ask: the API key of a request, before anything else of it is read.

Every path needs a key, those that nothing is behind too, but the few in `OPEN`: a route that is added later is closed
until somebody opens it. Where no keys are configured, everybody is the operator.
"""

import math

import structlog
from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import refusal
from app.api.headers import header_of
from app.api.limit_headers import limit_headers
from app.batches.admission import owner_of
from app.dispatch.backlog import Backlog
from app.errors import Forbidden, TryLater, Unauthorized
from app.keys.ring import OPERATOR, STRANGER, Caller, KeyRing

# Probes carry no key. The documentation is the same for every installation, and a browser that opens it can send none.
# /metrics is closed: it tells who is how busy, and Prometheus sends a bearer token (authorization in scrape_config).
OPEN = frozenset(
    {"/health", "/health/ready", "/health/live", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"}
)
CALLER = "phalanx.caller"  # in the ASGI scope


class KeyCheck:
    """Lets those in who show a key that is in force, as often as it may be shown."""

    def __init__(self, app: ASGIApp, keys: KeyRing | None, backlog: Backlog) -> None:
        self._app = app
        self._keys = keys
        self._backlog = backlog

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            caller = self._caller(scope)
        except Unauthorized as error:
            await refusal(scope, error)(scope, receive, send)
            return
        scope[CALLER] = caller
        if caller.key is None or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        structlog.contextvars.bind_contextvars(api_key_id=caller.key.id, tenant=caller.tenant)
        await self._serve(caller, scope, receive, send)

    def _caller(self, scope: Scope) -> Caller:
        if self._keys is None:
            return OPERATOR
        if scope["path"] in OPEN:
            return self._visitor(scope)
        caller = self._keys.find(_secret(scope))
        if caller is None:
            raise _unauthorized(
                "the API key is unknown here, or was revoked: use one that `phalanx api-keys list` shows"
            )
        return caller

    def _visitor(self, scope: Scope) -> Caller:
        """Who looks at what is open to all: an admin sees more of it than a stranger."""
        try:
            return (self._keys.find(_secret(scope)) if self._keys else None) or STRANGER
        except Unauthorized:
            return STRANGER

    async def _serve(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                waiting = self._backlog.waiting_of(owner_of(caller))
                MutableHeaders(scope=message).update(limit_headers(caller, waiting.items))
            await send(message)

        if caller.bucket is not None and not caller.bucket.take():
            error = _too_many(caller.bucket.per_s, caller.bucket.next_s)
            await refusal(scope, error)(scope, receive, send_with_limits)
        else:
            await self._app(scope, receive, send_with_limits)


def caller_of(request: Request) -> Caller:
    """Who sends this request."""
    caller = request.scope.get(CALLER)
    if not isinstance(caller, Caller):
        raise TypeError("the application was made without its check of API keys")
    return caller


def require_admin(request: Request) -> None:
    """Raises Forbidden unless the request's key is an admin's; where no keys are asked for, everybody is one."""
    caller = caller_of(request)
    if not caller.is_admin:
        whose = f"{caller.key.id} ({caller.key.name}) is none" if caller.key else "there is none"
        raise Forbidden(
            f"{request.method} {request.url.path} needs an admin's API key, and {whose}: use one that was made with "
            "`phalanx api-keys create NAME --admin`",
            code="admin_key_required",
        )


def _secret(scope: Scope) -> str:
    """What stands after Bearer, or where Anthropic's clients put it. Raises Unauthorized."""
    authorization = header_of(scope, b"authorization")
    if authorization is None and (api_key := (header_of(scope, b"x-api-key") or "").strip()):
        return api_key
    if authorization is None:
        raise _unauthorized("there is no API key: send the header Authorization: Bearer KEY")
    scheme, _, secret = authorization.strip().partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise _unauthorized("the Authorization header has another form than Bearer KEY: send the API key in that one")
    return secret.strip()


def _unauthorized(message: str) -> Unauthorized:
    return Unauthorized(message, param="Authorization", code="invalid_api_key")


def _too_many(per_s: float, next_s: float) -> TryLater:
    retry_after_s = math.ceil(next_s * 10) / 10  # rounded down, it would be refused again
    return TryLater(
        f"this API key may send {per_s:g} requests a second, and has sent more: try again in {retry_after_s:g} s",
        status=429,
        code="rate_limit_exceeded",
        retry_after_s=retry_after_s,
    )
