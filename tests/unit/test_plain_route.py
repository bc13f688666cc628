"""A plain route takes endpoints that need nothing of what it leaves out, and says so at once of others."""

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, Request
from fastapi.responses import Response
from fastapi.testclient import TestClient

from app.api.plain_route import PlainRoute, PlainRoutes


def client_of(endpoint: Callable[..., Any], path: str = "/x", **options: Any) -> TestClient:
    router = APIRouter(route_class=PlainRoute)
    router.post(path, **options)(endpoint)
    app = FastAPI()
    app.include_router(router)
    return TestClient(app)


def test_it_answers_and_is_described() -> None:
    async def endpoint(request: Request) -> Response:
        return Response(await request.body())

    client = client_of(endpoint)
    assert client.post("/x", content=b"said").content == b"said"
    assert "post" in client.get("/openapi.json").json()["paths"]["/x"]


def test_it_is_served_past_the_application_and_its_errors_answered_by_it() -> None:
    """Whatever is not expected is for whoever is before the application."""
    router = APIRouter(route_class=PlainRoute)
    seen: list[Any] = []

    @router.post("/x")
    async def endpoint(request: Request) -> Response:
        seen.append((request.app, request.scope["route"].path, "fastapi_middleware_astack" in request.scope))
        match await request.body():
            case b"known":
                raise KeyError("known")
            case b"unknown":
                raise IndexError("unknown")
        return Response(b"well")

    app = FastAPI()
    app.include_router(router)
    app.add_exception_handler(LookupError, is_known)
    app.add_exception_handler(Exception, is_unknown)
    client = TestClient(PlainRoutes(app))
    assert client.post("/x").content == b"well"
    known = client.post("/x", content=b"known")
    assert (known.status_code, known.content) == (418, b"KeyError('known')")
    assert client.get("/x").status_code == 405 and client.post("/y").status_code == 404
    assert seen == [(app, "/x", False)] * 2
    del app.exception_handlers[LookupError]
    with pytest.raises(IndexError):
        client.post("/x", content=b"unknown")


async def is_known(_: Request, error: Exception) -> Response:
    return Response(repr(error), 418)


async def is_unknown(_: Request, error: Exception) -> Response:
    raise AssertionError(error)


async def asks_a_query(request: Request, number: int = 1) -> Response:
    return Response(str(number))


async def asks_a_header(request: Request, word: Annotated[str, Header()] = "") -> Response:
    return Response(word)


async def asks_a_path(request: Request, number: int) -> Response:
    return Response(str(number))


async def answers_a_model(request: Request) -> dict[str, int]:
    return {}


async def asks_nothing() -> Response:
    return Response()


def blocks(request: Request) -> Response:
    return Response()


async def is_plain(request: Request) -> Response:
    return Response()


@pytest.mark.parametrize(
    ("endpoint", "path", "options"),
    [
        (asks_a_query, "/x", {}),
        (asks_a_header, "/x", {}),
        (asks_a_path, "/{number}", {}),
        (answers_a_model, "/x", {}),
        (asks_nothing, "/x", {}),
        (blocks, "/x", {}),
        (is_plain, "/x", {"dependencies": [Depends(asks_nothing)]}),
    ],
)
def test_what_needs_more_is_refused(endpoint: Callable[..., Any], path: str, options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="take an APIRoute"):
        client_of(endpoint, path, **options)
