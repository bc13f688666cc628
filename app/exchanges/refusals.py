"""What an exchange's refusal is to OpenAI's clients, whoever refused it."""

import msgspec

from app.errors import InvalidRequest, RequestError, TryLater
from app.validation import DECODE_ERRORS
from engines.contract.item_errors import ItemError

RETRY_S = 1.0  # after a rank was lost: another may take it at once
KINDS = {404: "not_found_error", 429: "rate_limit_error", 503: "service_unavailable_error"}


class _Fields(msgspec.Struct):
    message: str = ""
    param: str | None = None
    code: str | int | None = None


class _Body(msgspec.Struct):
    error: _Fields


_decode = msgspec.json.Decoder(_Body).decode


class Refused(RequestError):
    """What the engine's application refused, with its status."""

    def __init__(self, status: int, fields: _Fields) -> None:
        code = fields.code if isinstance(fields.code, str) else "internal_error" if status >= 500 else "invalid_request"
        param = fields.param.removeprefix("body.") if fields.param else None
        super().__init__(fields.message, param=param, code=code)
        self.status = status
        self.kind = KINDS.get(status, "internal_server_error" if status >= 500 else "invalid_request_error")


def refusal_of_item(error: ItemError) -> RequestError:
    """Of an exchange that no application answered."""
    if error.code.retryable:
        return TryLater(error.message, status=503, code=str(error.code), retry_after_s=RETRY_S)
    return InvalidRequest(error.message, param=error.param, code=str(error.code))


def refusal_of_answer(status: int, body: bytes) -> RequestError:
    """Of a body that the application answered with an error's status. Its code is the status once more, and OpenAI's
    clients expect a word there."""
    try:
        fields = _decode(body).error
    except DECODE_ERRORS:
        fields = _Fields(f"the engine answered with status {status}")
    return Refused(status, fields)
