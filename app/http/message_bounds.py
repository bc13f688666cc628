"""Bounds on what one request is made of: its head, and what frames its body, in bytes and in parts.

A body's own size is bounded where it is read; here, what comes beside its data is bounded by the data.
"""

from app.errors import RequestError
from app.http.connections import Cut
from app.http.text import large_head, much_framing, tiny_parts

MAX_HEAD_BYTES = 64 * 1024
MAX_FRAMING_BYTES = 64 * 1024  # of a body beyond its data
FRAMING_PER_BYTE = 16  # more of it is allowed for each byte of data: chunks of one byte are silly, and legal
MAX_PARTS = 4096  # that a body may come in, whatever its size: each costs some microseconds
BYTES_PER_PART = 16  # on average beyond these
BYTES_PER_HEADER = 32  # that one counts for beside its name and value: it takes memory, too
CONTENT_LENGTH, MOST_DIGITS = b"content-length", 18


class OutOfBounds(Exception):
    """The request is refused, and its connection ends for this reason."""

    def __init__(self, error: RequestError, reason: Cut) -> None:
        super().__init__(error.message)
        self.error = error
        self.reason = reason


class MessageBounds:
    """What has come of the request that is being received. Raises OutOfBounds for what is too much."""

    def __init__(self) -> None:
        self.heads = 0  # that have come whole on this connection
        self.head_bytes = 0  # of one that has not
        self.body_bytes = 0
        self._declared_bytes = 0  # of the body, by its head
        self._header_bytes = 0  # of this head, as parsed
        self._body_parts = 0
        self._framing_bytes = 0

    @property
    def missing_bytes(self) -> int:
        """Of the body, if its head has told how long it is."""
        return self._declared_bytes - self.body_bytes

    def begin(self) -> None:
        """The first byte of a request has been parsed."""
        self._header_bytes = self._declared_bytes = 0

    def count_head(self, size: int) -> None:
        """A part of a head has come, and not its end."""
        self.head_bytes += size
        if self.head_bytes > MAX_HEAD_BYTES:
            raise OutOfBounds(large_head(MAX_HEAD_BYTES), Cut.LARGE_HEAD)

    def count_url(self, url: bytes) -> None:
        """A part of the path. A large head may come in one read, and is then never an unfinished one."""
        self._count_parsed(len(url))

    def count_header(self, name: bytes, value: bytes) -> None:
        """A header or a trailer."""
        self._count_parsed(len(name) + len(value) + BYTES_PER_HEADER)

    def declare(self, name: bytes, value: bytes) -> None:
        """A header, which may tell how long the body is."""
        if len(name) == len(CONTENT_LENGTH) and name.lower() == CONTENT_LENGTH and value.isdigit():
            self._declared_bytes = int(value[:MOST_DIGITS])

    def end_head(self) -> None:
        """The head has come whole."""
        self.heads += 1
        self.head_bytes = self.body_bytes = self._body_parts = self._framing_bytes = 0

    def count_body(self, size: int) -> None:
        """A part of the body's data."""
        self.body_bytes += size
        self._body_parts += 1
        if self._body_parts > MAX_PARTS + self.body_bytes // BYTES_PER_PART:
            raise OutOfBounds(tiny_parts(BYTES_PER_PART), Cut.INVALID)

    def count_framing(self, size: int) -> None:
        """What has come of the body beside its data: sizes of chunks, trailers."""
        self._framing_bytes += size
        if self._framing_bytes > MAX_FRAMING_BYTES + FRAMING_PER_BYTE * self.body_bytes:
            raise OutOfBounds(much_framing(FRAMING_PER_BYTE), Cut.INVALID)

    def _count_parsed(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_HEAD_BYTES:
            raise OutOfBounds(large_head(MAX_HEAD_BYTES), Cut.LARGE_HEAD)
