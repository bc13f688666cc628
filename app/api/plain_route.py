"""A route for endpoints that read the request and write the answer themselves.

FastAPI lists and describes it like any other. What FastAPI does around an endpoint (dependencies, their exit stacks,
models of the body and of the answer) is left out: it cost a fifth of the gateway's time for a small batch. What it and
Starlette do before (search the routes, hold exit stacks open, wrap `send` twice) is left out where a path is all of its
route: a sixth of the time for an exchange.
"""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]


class PlainRoute(APIRoute):
    """The endpoint takes the request and nothing else. For ``APIRouter(route_class=PlainRoute)``."""

    def __init__(self, path: str, endpoint: Endpoint, **options: Any) -> None:  # Any: FastAPI's many
        super().__init__(path, endpoint, **options)
        takes = list(inspect.signature(endpoint).parameters)
        if (
            takes != [self.dependant.request_param_name]
            or not inspect.iscoroutinefunction(endpoint)
            or self.dependant.dependencies
            or self.response_model is not None
        ):
            raise TypeError(f"{path} needs what a plain route leaves out: take an APIRoute")

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            response = await endpoint(Request(scope, receive))
            await response(scope, receive, send)

        self.app = serve


class PlainRoutes:
    """An application behind its own plain routes that have no parameters. Errors are answered as the application does,
    but for those that it expects of nobody: they are for whoever is before it."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._routes = {
            (method, route.path): route
            for route in app.routes
            if isinstance(route, PlainRoute) and not route.param_convertors
            for method in route.methods
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope.update(app=self._app, route=route)
        try:
            await route.app(scope, receive, send)
        except Exception as error:
            handlers = self._app.exception_handlers
            kind = next((kind for kind in type(error).__mro__ if kind in handlers), Exception)
            if kind is Exception:
                raise
            answer = await cast("Awaitable[Response]", handlers[kind](Request(scope, receive), error))
            await answer(scope, receive, send)
