"""Errors as HTTP answers: one shape, a status for each class, and whole seconds to wait."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Message

from app.api import errors
from app.api.request_id import REQUEST_ID
from app.errors import (
    FatalError,
    Forbidden,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PhalanxError,
    RequestError,
    TooLarge,
    TryLater,
    Unauthorized,
    WrongMediaType,
)


def body_of(error: RequestError) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(errors.answer(error).body)
    return found


@pytest.mark.parametrize(
    ("kind", "status", "type_"),
    [
        (InvalidRequest, 400, "invalid_request_error"),
        (Unauthorized, 401, "invalid_request_error"),
        (Forbidden, 403, "invalid_request_error"),
        (NotFound, 404, "not_found_error"),
        (MethodNotAllowed, 405, "invalid_request_error"),
        (TooLarge, 413, "invalid_request_error"),
        (WrongMediaType, 415, "invalid_request_error"),
    ],
)
def test_every_class_has_its_status_and_the_shape_of_all(kind: type[RequestError], status: int, type_: str) -> None:
    error = kind("it is wrong", param="prompts", code="a_code")
    answer = errors.answer(error)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert "retry-after" not in answer.headers
    assert ("www-authenticate" in answer.headers) == (status == 401)
    assert body_of(error) == {"error": {"message": "it is wrong", "type": type_, "param": "prompts", "code": "a_code"}}


def test_what_an_error_does_not_know_is_null() -> None:
    assert body_of(InvalidRequest("no"))["error"] == {
        "message": "no",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_request",
    }


@pytest.mark.parametrize(
    ("error", "type_"),
    [
        (InvalidRequest("it is wrong", code="a_code"), "invalid_request_error"),
        (Unauthorized("it is wrong", code="a_code"), "authentication_error"),
        (Forbidden("it is wrong", code="a_code"), "permission_error"),
        (NotFound("it is wrong", code="a_code"), "not_found_error"),
        (MethodNotAllowed("it is wrong", code="a_code"), "invalid_request_error"),
        (TooLarge("it is wrong", code="a_code"), "request_too_large"),
        (TryLater("it is wrong", status=429, code="a_code", retry_after_s=1.0), "rate_limit_error"),
        (TryLater("it is wrong", status=503, code="a_code", retry_after_s=1.0), "overloaded_error"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_errors_of_anthropics_api_have_its_shape_and_its_words(error: RequestError, type_: str, path: str) -> None:
    answer = errors.answer(error, {"path": path, REQUEST_ID: "req-1"})
    fields = {"type": type_, "message": "it is wrong", "details": {"error_code": "a_code"}}
    assert json.loads(answer.body) == {"type": "error", "error": fields, "request_id": "req-1"}
    assert (answer.status_code, answer.headers["request-id"]) == (error.status, "req-1")
    assert ("retry-after" in answer.headers) == (error.status in (429, 503))


def test_a_fault_of_ours_is_one_in_anthropics_api_too() -> None:
    answer = errors.internal_error({"path": "/v1/messages", REQUEST_ID: "req-1"})
    assert (answer.status_code, json.loads(answer.body)["error"]["type"]) == (500, "api_error")


def test_a_stream_that_fails_ends_as_its_clients_expect() -> None:
    error = InvalidRequest("it is wrong")
    plain = errors.event(error, {"path": "/v1/completions"})
    assert json.loads(plain.removeprefix(b"data: ")) == body_of(error)
    named = errors.event(error, {"path": "/v1/messages", REQUEST_ID: "req-1"})
    assert named.startswith(b'event: error\ndata: {"type":"error","error":{')
    assert plain.endswith(b"}\n\n")
    assert named.endswith(b"}\n\n")


@pytest.mark.parametrize(
    ("estimate", "header", "shown"),
    [
        (0.0, "1", 0.0),
        (0.2, "1", 0.2),
        (1.0, "1", 1.0),
        (1.04, "1", 1.0),
        (1.2, "2", 1.2),
        (59.1, "60", 59.1),
        (60.0, "60", 60.0),
        (61.0, "60", 61.0),
        (86_400.0, "60", 86_400.0),
    ],
)
def test_retry_after_is_whole_seconds_from_1_to_60(estimate: float, header: str, shown: float) -> None:
    error = TryLater("later", status=429, code="backlog_full", retry_after_s=estimate)
    assert errors.answer(error).headers["retry-after"] == header
    assert body_of(error)["error"]["retry_after_s"] == shown


def test_trying_later_is_429_or_503() -> None:
    full = TryLater("later", status=429, code="backlog_full", retry_after_s=1)
    loading = TryLater("later", status=503, code="no_rank_ready", retry_after_s=1)
    assert (full.kind, loading.kind) == ("rate_limit_error", "service_unavailable_error")
    assert (errors.answer(full).status_code, errors.answer(loading).status_code) == (429, 503)


def test_a_fatal_error_is_no_answer() -> None:
    error = FatalError("the model is gone", 2)
    assert isinstance(error, PhalanxError) and not isinstance(error, RequestError)
    assert (str(error), error.exit_code) == ("the model is gone", 2)


# ---------------------------------------------------------------- FastAPI's own


def ask(method: str, path: str) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers and body of an application with one route."""
    app = FastAPI()
    errors.install(app)

    @app.get("/numbers/{number}")
    async def number(number: int) -> int:
        return number

    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b"", "server": ("a", 80)}
    asyncio.run(app(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


def test_an_unknown_path_is_404_in_our_shape() -> None:
    status, _, body = ask("GET", "/nothing")
    assert (status, body["error"]["code"], body["error"]["type"]) == (404, "path_not_found", "not_found_error")
    assert "/nothing" in body["error"]["message"]


def test_another_method_is_405_and_names_those_there_are() -> None:
    status, headers, body = ask("POST", "/numbers/1")
    assert (status, headers["allow"]) == (405, "GET")
    assert (body["error"]["code"], body["error"]["type"]) == ("method_not_allowed", "invalid_request_error")


def test_a_wrong_part_of_a_path_is_400_and_named() -> None:
    status, _, body = ask("GET", "/numbers/one")
    assert (status, body["error"]["param"]) == (400, "number")
    assert "detail" not in body


def test_a_fault_of_ours_says_where_to_look() -> None:
    answer = errors.internal_error({"path": "/v1/batch_generate"})
    assert answer.status_code == 500
    assert "X-Request-ID" in json.loads(answer.body)["error"]["message"]


def test_an_application_answers_a_fault_of_ours_in_our_shape() -> None:
    app = FastAPI()
    errors.install(app)

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("broken")

    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/broken")

    answer = asyncio.run(get())
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
