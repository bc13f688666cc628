"""A form (multipart/form-data), cut into its fields as it comes.

No more of a field is held than what came last; what has to be bounded beside a field's head is for whoever takes it.
"""

from typing import TypeAlias

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.errors import InvalidRequest, WrongMediaType

FORM = "multipart/form-data"
DISPOSITION, ENCODING = b"content-disposition", b"content-transfer-encoding"
PLAIN_ENCODINGS = (b"7bit", b"8bit", b"binary")
QUOTE = "%22"  # HTML's, of a quotation mark in a name


class FieldHead(msgspec.Struct, frozen=True):
    """A field begins; `filename` is of one that holds a file."""

    name: str
    filename: str | None = None


class FieldEnd(msgspec.Struct, frozen=True):
    """All of a field has come."""


FormEvent: TypeAlias = FieldHead | bytes | FieldEnd  # bytes are content


def boundary_of(content_type: str) -> bytes:
    """What separates the fields. Raises WrongMediaType for another type, and InvalidRequest where it is missing."""
    media_type, options = parse_options_header(content_type)
    if media_type != FORM.encode():
        shown = media_type[:100].decode(errors="replace")
        raise WrongMediaType(
            f"Content-Type is {shown!r}: it must be {FORM}, with the fields file and purpose",
            param="Content-Type",
            code="unsupported_media_type",
        )
    if not options.get(b"boundary"):
        raise InvalidRequest(
            "Content-Type has no boundary: let the client's library set the header", param="Content-Type"
        )
    return options[b"boundary"]


class FormCutter:
    """Cuts one body. Raises InvalidRequest for one that is broken."""

    def __init__(self, boundary: bytes) -> None:
        self._events: list[FormEvent] = []
        self._headers: dict[bytes, bytes] = {}
        self._name = bytearray()  # of the header that is being read
        self._value = bytearray()
        self._has_ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._headers.clear,
                    "on_header_field": self._on_header_name,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_head,
                    "on_part_data": self._on_data,
                    "on_part_end": lambda: self._events.append(FieldEnd()),
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise InvalidRequest(f"{error}: let the client's library choose it", param="Content-Type") from error

    def take(self, part: bytes) -> list[FormEvent]:
        """What has come with this part of the body."""
        try:
            self._parser.write(part)
        except FormParserError as error:
            raise _broken(str(error)) from error
        found, self._events = self._events, []
        return found

    def end(self) -> None:
        """The body has ended."""
        if not self._has_ended:
            raise _broken("it has no end: its last boundary is missing")

    def _on_header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _on_head(self) -> None:
        encoding = self._headers.get(ENCODING, b"binary").strip().lower()
        if encoding not in PLAIN_ENCODINGS:
            raise _broken(f"a field has the Content-Transfer-Encoding {_text(encoding[:40])!r}: send it as it is")
        kind, options = parse_options_header(self._headers.get(DISPOSITION))
        if kind != b"form-data" or b"name" not in options:
            raise _broken('a field has no Content-Disposition: it must be such as form-data; name="purpose"')
        filename = options.get(b"filename")
        self._events.append(FieldHead(_text(options[b"name"]), None if filename is None else _text(filename)))

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(data[start:end])

    def _on_end(self) -> None:
        self._has_ended = True


def _text(raw: bytes) -> str:
    """A name, in UTF-8 as browsers and libraries write it, or else in Latin-1."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.replace(QUOTE, '"')


def _broken(what: str) -> InvalidRequest:
    return InvalidRequest(f"the form is broken: {what}", code="invalid_form")
