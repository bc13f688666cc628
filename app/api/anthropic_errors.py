"""Refusals as Anthropic's clients read them: on the paths of its API, whoever refuses."""

from typing import Literal

import msgspec

from app.errors import RequestError
from engines.contract.exchanges import Exchange

PATHS = frozenset({Exchange.MESSAGES, Exchange.COUNT_TOKENS})
REQUEST_ID_HEADER = "request-id"  # where its clients look for it
ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "request_too_large",
    "rate_limit_error",
    "api_error",
    "overloaded_error",
]
TYPES: dict[int, ErrorType] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class AnthropicDetails(msgspec.Struct):
    """What names the cause: the code that other paths have in their errors."""

    error_code: str


class AnthropicErrorBody(msgspec.Struct):
    """What went wrong, and what would help."""

    type: ErrorType
    message: str
    details: AnthropicDetails


class AnthropicErrorAnswer(msgspec.Struct, kw_only=True):
    """The body of every answer of Anthropic's API that is not 2xx."""

    type: Literal["error"] = "error"
    error: AnthropicErrorBody
    request_id: str


STRUCTS = (AnthropicDetails, AnthropicErrorBody, AnthropicErrorAnswer)
_encode = msgspec.json.Encoder().encode


def encoded(error: RequestError, request_id: str) -> bytes:
    """The body of an error's answer."""
    default: ErrorType = "api_error" if error.status >= 500 else "invalid_request_error"
    body = AnthropicErrorBody(TYPES.get(error.status, default), error.message, AnthropicDetails(error.code))
    return _encode(AnthropicErrorAnswer(error=body, request_id=request_id))
