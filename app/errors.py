"""The gateway's errors, one tree, and their shape in answers.

PhalanxError
├── RequestError            the client must change the request; each class is one HTTP status
│   ├── InvalidRequest      400
│   ├── Unauthorized        401  no API key, or none that is known
│   ├── Forbidden           403  the API key may not do this, or another site's page asks
│   ├── NotFound            404
│   ├── MethodNotAllowed    405
│   ├── TooSlow             408  the client took too long to send it
│   ├── Conflict            409  not in the state that it is in
│   ├── TooLarge            413  it can never fit
│   ├── WrongMediaType      415
│   ├── RangeNotSatisfiable 416  none of the bytes that are asked for are there
│   ├── Unprocessable       422  an idempotency key that stands for another body
│   ├── HeadTooLarge        431
│   ├── GatewayFailed       500  the fault is the gateway's
│   └── TryLater            429 or 503, with Retry-After
├── BrokenOff               an answer that has begun cannot be completed: its connection ends
└── FatalError              the operator must act: the service ends with this message and exit code
"""

import math
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

MAX_RETRY_AFTER_S = 60
ErrorType = Literal[
    "invalid_request_error",
    "not_found_error",
    "rate_limit_error",
    "service_unavailable_error",
    "internal_server_error",
]


class ErrorBody(msgspec.Struct, kw_only=True):
    """What went wrong, where, and what would help."""

    message: str
    type: ErrorType
    param: str | None
    code: str | None
    retry_after_s: float | UnsetType = UNSET


class ErrorAnswer(msgspec.Struct):
    """The body of every answer that is not 2xx."""

    error: ErrorBody


class PhalanxError(Exception):
    """Any error of ours. The message names the thing, the value and the remedy."""


class RequestError(PhalanxError):
    """An answer other than 200, in OpenAI's shape."""

    status = 400
    kind = "invalid_request_error"

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s: float | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Extra headers of the answer."""
        if self.retry_after_s is None:
            return {}
        return {"Retry-After": str(max(1, min(MAX_RETRY_AFTER_S, math.ceil(self.retry_after_s))))}


def body_of(error: RequestError) -> ErrorBody:
    """An error as clients are told of it."""
    body = ErrorBody(message=error.message, type=error.kind, param=error.param, code=error.code)  # type: ignore[arg-type]  # the tree's classes carry these words
    if error.retry_after_s is not None:
        body.retry_after_s = error.retry_after_s
    return body


class InvalidRequest(RequestError):
    """The request is malformed or asks for what is not there."""


class Unauthorized(RequestError):
    """The request must carry an API key that is in force."""

    status = 401

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class Forbidden(RequestError):
    """The API key is in force, and may not do this; or a web page of another site asks."""

    status = 403


class NotFound(RequestError):
    """Nothing is there under this name."""

    status = 404
    kind = "not_found_error"


class MethodNotAllowed(RequestError):
    """The path is there, the method is not."""

    status = 405


class TooSlow(RequestError):
    """The client took too long to send its request. The connection ends with the answer."""

    status = 408

    @property
    def headers(self) -> dict[str, str]:
        return super().headers | {"Connection": "close"}


class Conflict(RequestError):
    """What is asked for does not go with the state of the thing."""

    status = 409


class TooLarge(RequestError):
    """The request can never fit, however often it is sent."""

    status = 413


class WrongMediaType(RequestError):
    """The body is of a type that is not read."""

    status = 415


class RangeNotSatisfiable(RequestError):
    """None of the bytes that are asked for are there."""

    status = 416

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message, param="Range", code="range_not_satisfiable")
        self.size = size

    @property
    def headers(self) -> dict[str, str]:
        return {"Content-Range": f"bytes */{self.size}"}


class Unprocessable(RequestError):
    """The request is well formed, and contradicts an earlier one."""

    status = 422


class HeadTooLarge(RequestError):
    """The request's line and headers are longer than any real ones."""

    status = 431


class GatewayFailed(RequestError):
    """The request may be well: the gateway failed on it, and the operator must look at its log."""

    status = 500
    kind = "internal_server_error"

    def __init__(self) -> None:
        super().__init__(
            "the gateway failed on this request; its log says why, under the X-Request-ID of this answer",
            code="internal_error",
        )


class TryLater(RequestError):
    """The same request may succeed later: 429 when there is no room, 503 when no rank is ready."""

    def __init__(self, message: str, *, status: int, code: str, retry_after_s: float) -> None:
        super().__init__(message, code=code)
        self.status = status
        self.kind = "rate_limit_error" if status == 429 else "service_unavailable_error"
        self.retry_after_s = round(retry_after_s, 1)


class BrokenOff(PhalanxError):
    """An answer that has begun cannot be completed. Its connection ends, so that nobody takes it for whole."""


class FatalError(PhalanxError):
    """The service cannot go on. Exit code 2: change the settings; 1: anything else."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
