"""One line of a batch's input file: the request that it holds, or what is wrong with it."""

from enum import StrEnum

import msgspec

from app.batches import surrogates
from app.batches.request import CUSTOM_ID_LENGTH
from app.batches.splitting import MAX_DEPTH, is_too_deep
from app.validation import DECODE_ERRORS, complaint, did_you_mean, short, shown
from engines.contract.exchanges import BATCH_GENERATE

OFF = (b"false", b"null")
SPACE = b" \t\r"  # a line may hold nothing else, and end with \r\n


class ProblemCode(StrEnum):
    """What may be wrong with a batch: with its input file, but for the first."""

    BATCH_HELD = "batch_held"  # nothing of it runs until the reason, which the message gives, is gone
    INPUT_FILE_GONE = "input_file_gone"  # it was deleted, or expired, before it was read
    EMPTY_FILE = "empty_file"
    TOO_MANY_TASKS = "too_many_tasks"
    LINE_TOO_LONG = "line_too_long"
    INVALID_JSON_LINE = "invalid_json_line"  # it is no JSON object
    UNKNOWN_PARAMETER = "unknown_parameter"
    INVALID_CUSTOM_ID = "invalid_custom_id"  # it is missing, or cannot be one
    DUPLICATE_CUSTOM_ID = "duplicate_custom_id"
    INVALID_METHOD = "invalid_method"
    URL_MISMATCH = "url_mismatch"  # it is not the batch's endpoint
    INVALID_BODY = "invalid_body"  # it is no object
    MODEL_MISMATCH = "model_mismatch"  # it is not served here
    STREAM_NOT_SUPPORTED = "stream_not_supported"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong. `line` is counted from 1; None: the file as a whole."""

    code: str  # one of ProblemCode
    line: int | None
    message: str
    param: str | None = None


class Task(msgspec.Struct, frozen=True):
    """One request of a batch. `body` is the JSON object that it came as."""

    line: int
    custom_id: str
    body: bytes


class Expected(msgspec.Struct, frozen=True):
    """What all lines of a batch have in common."""

    endpoint: str
    model: str


class _Line(msgspec.Struct):
    """Every field as it came, so that each has a problem of its own."""

    custom_id: msgspec.Raw = msgspec.Raw(b"null")
    method: msgspec.Raw = msgspec.Raw(b"null")
    url: msgspec.Raw = msgspec.Raw(b"null")
    body: msgspec.Raw = msgspec.Raw(b"null")


class _Body(msgspec.Struct):
    model: msgspec.Raw = msgspec.Raw(b"null")
    stream: msgspec.Raw = msgspec.Raw(b"null")
    encoding_format: msgspec.Raw = msgspec.Raw(b"null")
    custom_id: msgspec.Raw = msgspec.Raw(b"null")


class _Wrong(Exception):
    """The line cannot be a task."""

    def __init__(self, code: ProblemCode, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_body = msgspec.json.Decoder(_Body).decode
_FIELDS = _Line.__struct_fields__


def read_line(line: bytes, number: int, expected: Expected) -> Task | Problem:
    """The task of a line that is not empty, or the first thing that is wrong with it."""
    try:
        return _task(line, number, expected)
    except _Wrong as wrong:
        message = f"line {number}: {wrong.message}"
        return Problem(code=wrong.code, line=number, message=message, param=wrong.param)


def duplicate(task: Task) -> Problem:
    """Of a task whose custom_id stands on an earlier line, too."""
    return Problem(
        code=ProblemCode.DUPLICATE_CUSTOM_ID,
        line=task.line,
        message=f"line {task.line}: custom_id {shown(task.custom_id)} stands on an earlier line: give each its own",
        param="custom_id",
    )


def _task(line: bytes, number: int, expected: Expected) -> Task:
    fields = _fields(line)
    custom_id = _custom_id(fields.custom_id)
    if bytes(fields.method) != b'"POST"':
        raise _Wrong(ProblemCode.INVALID_METHOD, f"method is {_quoted(fields.method)}: it must be 'POST'", "method")
    if _text(fields.url) != expected.endpoint:
        raise _Wrong(
            ProblemCode.URL_MISMATCH,
            f"url is {_quoted(fields.url)}: it must be {expected.endpoint!r}, the endpoint of the batch",
            "url",
        )
    body = bytes(fields.body)
    _check_body(body, expected)
    return Task(number, custom_id, body)


def _fields(line: bytes) -> _Line:
    if not line.lstrip(SPACE).startswith(b"{"):
        raise _Wrong(ProblemCode.INVALID_JSON_LINE, "it must be an object with custom_id, method, url and body")
    try:
        line.decode()  # what a decoder skips it does not check
        found = _decode_fields(line)
    except DECODE_ERRORS as error:
        reason = surrogates.complaint_of(error, line, "it").message
        raise _Wrong(ProblemCode.INVALID_JSON_LINE, reason) from error
    if unknown := next((name for name in found if name not in _FIELDS), None):
        hint = did_you_mean(unknown, _FIELDS) or f": it may have {', '.join(_FIELDS)}"
        raise _Wrong(ProblemCode.UNKNOWN_PARAMETER, f"unknown field {short(unknown)!r}{hint}", short(unknown))
    return _Line(**found)


def _custom_id(raw: msgspec.Raw) -> str:
    found = _text(raw)
    if found is None or not 1 <= len(found) <= CUSTOM_ID_LENGTH:
        raise _Wrong(
            ProblemCode.INVALID_CUSTOM_ID,
            f"custom_id is {_quoted(raw)}: it must be a string of 1 to {CUSTOM_ID_LENGTH} characters",
            "custom_id",
        )
    return found


def _check_body(body: bytes, expected: Expected) -> None:
    if not body.startswith(b"{"):
        raise _Wrong(ProblemCode.INVALID_BODY, f"body is {_quoted(msgspec.Raw(body))}: it must be an object", "body")
    if is_too_deep(body):
        raise _Wrong(ProblemCode.INVALID_BODY, f"body is nested deeper than {MAX_DEPTH} levels", "body")
    try:
        found = _decode_body(body)
    except DECODE_ERRORS as error:  # a key that is half a character
        raise _Wrong(ProblemCode.INVALID_BODY, complaint(error, "body").message, "body") from error
    if bytes(found.model) != b"null" and _text(found.model) != expected.model:
        raise _Wrong(
            ProblemCode.MODEL_MISMATCH,
            f"model is {_quoted(found.model)}, which is not served here: leave it out, or name {expected.model!r}",
            "body.model",
        )
    if bytes(found.stream) not in OFF:  # some engines take 1 and "yes" for true
        raise _Wrong(
            ProblemCode.STREAM_NOT_SUPPORTED,
            f"stream is {_quoted(found.stream)}, and a batch's answers are whole: leave it out",
            "body.stream",
        )
    if (_text(found.encoding_format) or "").startswith("bytes"):
        raise _Wrong(
            ProblemCode.INVALID_BODY,
            f"encoding_format is {_quoted(found.encoding_format)}, and a line of a file is JSON: use float or base64",
            "body.encoding_format",
        )
    if expected.endpoint == BATCH_GENERATE and bytes(found.custom_id) != b"null":
        raise _Wrong(
            ProblemCode.UNKNOWN_PARAMETER,
            "custom_id is in the body: it belongs beside it, and the result has it from there",
            "body.custom_id",
        )


def _text(raw: msgspec.Raw) -> str | None:
    """The string that this JSON is."""
    try:
        return msgspec.json.decode(raw, type=str)
    except DECODE_ERRORS:
        return None


def _quoted(raw: msgspec.Raw) -> str:
    """A value as a message may quote it."""
    if bytes(raw) == b"null":
        return "missing"
    text = _text(raw)
    return shown(text) if text is not None else short(bytes(raw).decode(errors="replace"))
