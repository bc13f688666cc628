"""The first thing a request meets: its id, and the check of its Host header. Plain ASGI, so that it costs little."""

import time
from collections.abc import Iterable

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import internal_error, refusal
from app.api.headers import add_header, header_of
from app.api.refusals import route_of
from app.api.request_id import ON_THE_WIRE, REQUEST_ID, choose_request_id
from app.errors import Forbidden, InvalidRequest, RequestError
from app.logs import get_logger
from app.metrics import Metrics
from app.settings.checks import is_loopback
from app.traces import OFF, Traces

logger = get_logger("http")
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
OWN_PAGES = ("same-origin", "none")  # what Sec-Fetch-Site says of them; none: the person typed the address


class Frontdoor:
    """Gives each request an id and a span, refuses names this server does not go by, and counts."""

    def __init__(self, app: ASGIApp, metrics: Metrics, hosts: frozenset[str] | None, traces: Traces = OFF) -> None:
        self._app = app
        self._metrics = metrics
        self._traces = traces
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        request_id = scope[REQUEST_ID] = choose_request_id(header_of(scope, ON_THE_WIRE))
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                add_header(message, ON_THE_WIRE, request_id)
            await send(message)

        structlog.contextvars.clear_contextvars()  # a pipelined request begins in the context of the one before it
        trace = self._traces.request(scope["path"], Headers(scope=scope), request_id)
        structlog.contextvars.bind_contextvars(request_id=request_id, **trace.ids)
        try:
            await self._serve(scope, receive, send_with_id)
        except Exception:
            if status:
                raise
            logger.exception("request_failed", method=scope["method"], route=route_of(scope))
            await internal_error(scope)(scope, receive, send_with_id)
        finally:
            self._metrics.request(scope["method"], route_of(scope), status or 499, time.monotonic() - began)
            trace.end(scope["method"], route_of(scope), status or 499)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = header_of(scope, b"host") or ""
        if self._hosts is not None and _hostname(host) not in self._hosts:
            error: RequestError = InvalidRequest(
                f"Host {host[:128]!r} is no name of this server: use {sorted(self._hosts)[0]}, or start it with "
                "--allowed-hosts",
                param="Host",
                code="host_not_allowed",
            )
            await refusal(scope, error)(scope, receive, send)
            return
        if scope["method"] not in SAFE_METHODS and _is_from_another_site(scope, host):
            error = Forbidden(
                "a web page of another site sent this request: send it from a program, or from a page of this server",
                param="Origin",
                code="cross_site_request",
            )
            await refusal(scope, error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def allowed_hosts(bind: str, extra: Iterable[str]) -> frozenset[str] | None:
    """Names that a Host header may carry; None: any. On loopback they are checked, so that a web page whose name
    was rebound to 127.0.0.1 cannot drive the server."""
    extra = {name.lower() for name in extra}
    if not extra and not is_loopback(bind):
        return None
    return frozenset({*LOOPBACK_NAMES, bind.lower(), *extra})


def _is_from_another_site(scope: Scope, host: str) -> bool:
    """Whether a browser says so: it asks nobody before it sends a form, or a POST without a body, anywhere.

    Sec-Fetch-Site is in every browser since 2023, on loopback and over TLS; Origin is older, and sent everywhere.
    """
    site = header_of(scope, b"sec-fetch-site")
    if site is not None:
        return site not in OWN_PAGES
    origin = header_of(scope, b"origin")
    return origin is not None and origin.partition("://")[2].lower() != host.strip().lower()


def _hostname(host: str) -> str:
    """The Host header without its port."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
