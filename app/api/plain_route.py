"""A route for endpoints that read the request and write the answer themselves.

FastAPI lists and describes it like any other. What FastAPI does around an endpoint (dependencies, their exit stacks,
models of the body and of the answer) is left out: it cost a fifth of the gateway's time for a small batch.
"""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request
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
