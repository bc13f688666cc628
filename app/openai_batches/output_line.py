"""One line of a batch's output or error file. An answer is spliced into it as the bytes that it is."""

import secrets
from http import HTTPStatus

import msgspec

from app.batches.one_line import on_one_line
from app.batches.results import Status
from app.errors import ErrorAnswer, RequestError, body_of
from app.openai_batches.input_line import SPACE

_encode = msgspec.json.Encoder().encode


class LineError(msgspec.Struct, frozen=True):
    """Why a line has no answer, such as `batch_expired` or `batch_cancelled`."""

    code: str
    message: str


def new_line_id() -> str:
    """One that no other line has."""
    return f"batch_req_{secrets.token_hex(16)}"


def is_output(status_code: int) -> bool:
    """Whether an answer belongs in the output file; others are in the error file."""
    return status_code == HTTPStatus.OK


def answered(custom_id: str, status_code: int, request_id: str, body: bytes, *, is_json: bool = True) -> bytes:
    """The line of an answer, without its end."""
    shown = body.strip(SPACE) or b"null" if is_json else _encode(body.decode(errors="replace"))
    head = {"status_code": status_code, "request_id": request_id}
    response = _encode(head)[:-1] + b',"body":' + shown + b"}"
    return _line(custom_id, response, b"null")


def refused(custom_id: str, refusal: RequestError, request_id: str) -> bytes:
    """The line of a refusal, without its end: its error is in the answer's body, and the line's is null."""
    return answered(custom_id, refusal.status, request_id, _encode(ErrorAnswer(body_of(refusal))))


def unanswered(custom_id: str, error: LineError) -> bytes:
    """The line of a request that has no answer, without its end."""
    return _line(custom_id, b"null", _encode(error))


def without_turn(custom_id: str, status: Status) -> bytes:
    """The line of a request whose batch ended before it, without its end."""
    return unanswered(custom_id, LineError(f"batch_{status}", f"the batch was {status} before this line was answered"))


def _line(custom_id: str, response: bytes, error: bytes) -> bytes:
    head = _encode({"id": new_line_id(), "custom_id": custom_id})[:-1]
    return on_one_line(head + b',"response":' + response + b',"error":' + error + b"}")
