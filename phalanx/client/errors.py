"""What a client of Phalanx raises. All are PhalanxError; which one says what to do about it."""

from http import HTTPStatus

import msgspec


class PhalanxError(Exception):
    """Something the service, or the way to it, did not do. `request_id` names the request in the service's log."""

    def __init__(self, message: str, *, request_id: str | None = None) -> None:
        super().__init__(message)
        self.request_id = request_id


class ConnectionFailed(PhalanxError):
    """Nobody answers there, or not in time. `is_temporary`: a service that comes back would answer."""

    def __init__(self, message: str, *, is_temporary: bool = True) -> None:
        super().__init__(message)
        self.is_temporary = is_temporary


class MaybeAccepted(ConnectionFailed):
    """The connection broke after a whole batch was sent: it may run. The message says how to find out."""


class IncompleteAnswer(PhalanxError):
    """The answer broke off, or was none of Phalanx's. What came before the break is valid.

    `code` is the service's, where it gave the batch up itself, and said why: `slow_body`, `spool_full` and the like.
    """

    code: str | None = None


class ItemFailed(PhalanxError):
    """A result without a text was asked for it. `retryable`: the same item may succeed when it is sent again."""

    def __init__(self, message: str, *, code: str, retryable: bool) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable


class Refused(PhalanxError):
    """The service answered with an error. `param` is the place in the request, where there is one."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        type: str,  # noqa: A002  as the answer has it
        code: str | None,
        param: str | None,
        retry_after_s: float | None,
        request_id: str | None,
    ) -> None:
        super().__init__(message, request_id=request_id)
        self.status = status
        self.type = type
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s


class InvalidRequest(Refused):
    """The request is wrong (400, 415), or its idempotency key belongs to another one (422)."""


class NotAuthorized(Refused):
    """There is no API key, or it may not do this (401, 403)."""


class NotFound(Refused):
    """No such path, model or batch (404)."""


class Conflict(Refused):
    """The batch is not in a state for this (409): one that runs is neither resumed nor deleted."""


class TooLarge(Refused):
    """More than is ever accepted in one request (413)."""


class TryLater(Refused):
    """There is no room, or no rank is ready (408, 429, 503). `retry_after_s` says when to try again."""


class ServiceFailed(Refused):
    """Anything else: most likely a fault of the service, or of a proxy before it."""


_KINDS: dict[int, type[Refused]] = {
    HTTPStatus.BAD_REQUEST: InvalidRequest,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: InvalidRequest,
    HTTPStatus.UNPROCESSABLE_ENTITY: InvalidRequest,
    HTTPStatus.UNAUTHORIZED: NotAuthorized,
    HTTPStatus.FORBIDDEN: NotAuthorized,
    HTTPStatus.NOT_FOUND: NotFound,
    HTTPStatus.CONFLICT: Conflict,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: TooLarge,
    HTTPStatus.REQUEST_TIMEOUT: TryLater,
    HTTPStatus.TOO_MANY_REQUESTS: TryLater,
    HTTPStatus.SERVICE_UNAVAILABLE: TryLater,
}
LONGEST_QUOTE = 200  # characters of an answer that is not ours


class _Error(msgspec.Struct):
    message: str
    type: str = ""
    code: str | None = None
    param: str | None = None
    retry_after_s: float | None = None


class _Body(msgspec.Struct):
    error: _Error


_decode = msgspec.json.Decoder(_Body).decode


def refusal(status: int, body: bytes, retry_after: str | None, request_id: str | None) -> Refused:
    """The exception for an answer of this status. `retry_after` is the header of that name."""
    try:
        error = _decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = " ".join(body.decode(errors="replace").split())[:LONGEST_QUOTE]
        error = _Error(f"it answers {status}" + (f": {text}" if text else ""))
    seconds = error.retry_after_s
    if seconds is None and retry_after is not None and retry_after.isdigit():
        seconds = float(retry_after)
    return _KINDS.get(status, ServiceFailed)(
        error.message,
        status=status,
        type=error.type,
        code=error.code,
        param=error.param,
        retry_after_s=seconds,
        request_id=request_id,
    )
