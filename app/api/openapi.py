"""The API's description, from the very structs that are decoded and encoded.

FastAPI lists the routes; what they take and answer stands beside each of them, since they read and write bytes
themselves. A route without an entry in its resource's `ANSWERS` is an error: nothing stays undescribed.
"""

from collections.abc import Sequence

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.api import limit_headers
from app.api.answer_form import NDJSON
from app.api.auth import OPEN
from app.api.body import JSON_TYPE
from app.api.describing import Answers, Resource, Schema, ref
from app.api.examples import ERRORS
from app.api.form_cutter import FORM
from app.api.request_id import REQUEST_ID_HEADER, SAFE_REQUEST_ID
from app.api.schemas import components
from app.errors import MAX_RETRY_AFTER_S

DESCRIPTION = """\
Takes batches of prompts, spreads them over data-parallel ranks and answers with one result per prompt, in order.

Errors have OpenAI's shape on every path, but Anthropic's on those of its API: an unknown path is 404, another method on
a known one is 405, and on a loopback address a `Host` that is none of the server's names is 400. Where the service was
started with API keys, an unknown path needs one, too. A head that comes too slowly is 408, one that is too large is
431, and what is no HTTP is 400; a connection beyond the bound is answered 503.
"""
SECURITY_SCHEME = "ApiKey"
EVERYWHERE = (400, 500)
WITH_A_KEY = (401, 429)
MEANINGS = {
    400: "The request is invalid or asks for what is not supported; `param` names the place.",
    401: "The service was started with API keys, and the request carries none that is in force.",
    403: "The API key is in force, and this needs an admin's; or a web page of another site sent the request.",
    404: "Nothing is there under this name.",
    408: "The body came too slowly; the connection ends with the answer.",
    409: "It does not go with the state that the thing is in.",
    413: "It can never fit, however often it is sent; the message names the limit.",
    415: "The body is of another media type than those listed, or is compressed.",
    416: "None of the bytes that `Range` asks for are there.",
    422: "An Idempotency-Key that stands for another body.",
    429: "There is no room now, or the API key has used up its own limit; the time to wait is an estimate from the "
    "measured rate.",
    500: "The fault is the gateway's; its log says more.",
    503: "No rank is ready, the journal is unavailable, or the service is ending; the message gives the reason.",
}
RETRYABLE = (429, 503)
IN_PART = (206, 416)


def describe(app: FastAPI, resources: Sequence[Resource]) -> None:
    """Makes /docs and /openapi.json true."""

    def document() -> Schema:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, resources)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's own way to change it


def _document(app: FastAPI, resources: Sequence[Resource]) -> Schema:
    described = get_openapi(
        title=app.title, version=app.version, summary=app.summary, description=DESCRIPTION, routes=app.routes
    )
    described["components"] = {
        "schemas": components(found for resource in resources for found in resource.SCHEMAS),
        "headers": _headers(),
        "parameters": _parameters(),
        "securitySchemes": {SECURITY_SCHEME: _security_scheme()},
    }
    answers = {path: found for resource in resources for path, found in resource.ANSWERS.items()}
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            found = answers.get(f"{method.upper()} {path}") or answers[path]
            operation.setdefault("parameters", []).append({"$ref": "#/components/parameters/RequestId"})
            operation["responses"] = _responses(path, found)
            operation["security"] = [] if path in OPEN else [{SECURITY_SCHEME: []}]
            if content := _taken(found):
                operation["requestBody"] = {"required": found.needs_body, "content": content}
    return described


def _taken(answers: Answers) -> dict[str, Schema]:
    content: dict[str, Schema] = {}
    if answers.takes is not None:
        content[JSON_TYPE] = {"schema": ref(answers.takes), "examples": dict(answers.requests)}
    if answers.takes_form is not None:
        content[FORM] = {"schema": answers.takes_form}
    if answers.takes_line is not None:
        content[NDJSON] = _lines(answers.takes_line, answers.request_lines)
    return content


def _responses(path: str, answers: Answers) -> dict[str, Schema]:
    needs_key = path not in OPEN
    found = {str(answers.success): _ok(answers)}
    if answers.raw_types:
        found["206"] = {"description": "The part that was asked for.", "content": _raw(answers)}
    for other, component in answers.also.items():
        found[str(other)] = {"description": "Success", "content": {JSON_TYPE: {"schema": ref(component)}}}
    for status in sorted((*EVERYWHERE, *answers.errors, *(WITH_A_KEY if needs_key else ()))):
        found[str(status)] = _error(status, (answers.unavailable if status == 503 else None) or answers.refused)
    for status, answer in found.items():
        answer["headers"] = _header_refs(int(status), needs_key)
    return found


def _ok(answers: Answers) -> Schema:
    answer: Schema = {"description": "Success"}
    if answers.raw_types:
        return answer | {"content": _raw(answers)}
    if answers.component is None:
        return answer | {"content": {"text/plain": {"schema": {"type": "string"}}}}
    content: dict[str, Schema] = {JSON_TYPE: _json(answers.component, answers)}
    content |= {media_type: {} for media_type in answers.other_types}
    if answers.line is not None:
        content[NDJSON] = _lines(answers.line, answers.lines)
    return answer | {"content": content}


def _raw(answers: Answers) -> dict[str, Schema]:
    return {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in answers.raw_types}


def _lines(component: str, examples: Sequence[object]) -> Schema:
    text = "".join(msgspec.json.encode(line).decode() + "\n" for line in examples)
    return {"schema": ref(component), "example": text}


def _json(component: str, answers: Answers) -> Schema:
    if not answers.others:
        return {"schema": ref(component), **({"example": answers.example} if answers.example else {})}
    examples = {component: answers.example, **answers.others}
    return {
        "schema": {"oneOf": [ref(name) for name in examples]},
        "examples": {name: {"value": value} for name, value in examples.items()},
    }


def _error(status: int, component: str) -> Schema:
    example = {"example": ERRORS[status]} if component == "ErrorAnswer" else {}
    return {
        "description": MEANINGS[status],
        "content": {JSON_TYPE: {"schema": ref(component), **example}},
    }


def _header_refs(status: int, needs_key: bool) -> Schema:
    names = [REQUEST_ID_HEADER]
    if status in RETRYABLE:
        names.append("Retry-After")
    if status in IN_PART:
        names.append("Content-Range")
    if status == 401:
        names.append("WWW-Authenticate")
    elif needs_key:
        names += limit_headers.MEANINGS
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _headers() -> dict[str, Schema]:
    return {
        REQUEST_ID_HEADER: {
            "description": "The request's id, as the gateway's log has it.",
            "required": True,
            "schema": {"type": "string"},
        },
        "Retry-After": {
            "description": "Whole seconds; `retry_after_s` in the body has the estimate itself.",
            "required": True,
            "schema": {"type": "integer", "minimum": 1, "maximum": MAX_RETRY_AFTER_S},
        },
        "Content-Range": {
            "description": "Which bytes these are, and of how many.",
            "required": True,
            "schema": {"type": "string"},
        },
        "WWW-Authenticate": {"description": "How to show a key.", "required": True, "schema": {"const": "Bearer"}},
    } | {
        name: {"description": meaning, "required": False, "schema": {"type": "string"}}
        for name, meaning in limit_headers.MEANINGS.items()
    }


def _security_scheme() -> Schema:
    return {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, as `phalanx api-keys create` has shown it. Only where the service was started with "
        "API keys; elsewhere the header is not looked at.",
    }


def _parameters() -> dict[str, Schema]:
    return {
        "RequestId": {
            "name": REQUEST_ID_HEADER,
            "in": "header",
            "required": False,
            "description": f"Kept when it is `{SAFE_REQUEST_ID.pattern}`; else the gateway makes one.",
            "schema": {"type": "string"},
        }
    }
