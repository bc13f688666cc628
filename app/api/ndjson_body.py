"""An NDJSON body, read as its items are wanted: whoever asks for no more of it holds its client back.

It may be larger than memory, and has no bound in bytes: what is kept of it is somebody else's to bound.
"""

from collections.abc import AsyncIterator
from hashlib import blake2b

from starlette.requests import Request

from app.api.answer_form import NDJSON, is_streamed
from app.api.body import DIGEST_BYTES, media_type_of
from app.api.body_parts import BodyParts
from app.batches.lines import LineCutter, LineReader
from app.batches.reading import BodyReads
from app.batches.request import BatchRequest
from app.batches.splitting import MAX_BESIDE_BYTES
from app.batches.turnstile import Turnstile
from app.settings.declaration import Settings

LINES_AT_ONCE = 256  # between two turns of the event loop


def is_ndjson(request: Request) -> bool:
    """Whether the request declares its body as NDJSON."""
    return media_type_of(request) == NDJSON


def wants_stream(request: Request, stream: bool | None) -> bool:
    """Whether the answer is a stream: see `is_streamed`. Lines are answered with lines, unless `stream` forbids it."""
    wanted = stream is not False if is_ndjson(request) else stream
    return is_streamed(wanted, ", ".join(request.headers.getlist("accept")))


class NdjsonBody:
    """One body, which is read once. First `options`, then `bodies`."""

    def __init__(
        self, request: Request, settings: Settings, reads: BodyReads, turnstile: Turnstile, *, is_hashed: bool = False
    ) -> None:
        """Raises WrongMediaType when it is compressed."""
        self._parts = BodyParts(request, settings, reads)
        longest = settings.max_prompt_bytes + MAX_BESIDE_BYTES
        self._turnstile = turnstile
        self._cutter = LineCutter(longest)
        self._reader = LineReader(longest, turnstile)
        self._lines = self._read_lines()
        self._first: list[bytes] = []  # what was read with the options
        self._hash = blake2b(digest_size=DIGEST_BYTES) if is_hashed else None
        self._is_whole = False

    async def options(self) -> BatchRequest:
        """The batch-wide fields, once the first item has come, too.

        Raises InvalidRequest, TooSlow and TooLarge.
        """
        async for bodies in self._lines:
            if bodies:
                self._first = bodies
                return self._reader.options
        self._reader.end()
        return self._reader.options

    def digest(self) -> bytes | None:
        """Of all its bytes, by which it is told apart from others; None before its end, or where it is not hashed."""
        return self._hash.digest() if self._is_whole and self._hash is not None else None

    async def bodies(self) -> AsyncIterator[list[bytes]]:
        """The bodies of its items in order, some hundreds at a time: see `LineReader.read`.

        Raises TooSlow, TooLarge, and InvalidRequest for a body that ends with its connection.
        """
        yield self._first
        async for bodies in self._lines:
            if bodies:
                yield bodies

    async def _read_lines(self) -> AsyncIterator[list[bytes]]:
        async for lines in self._cut():
            for start in range(0, len(lines), LINES_AT_ONCE):
                await self._turnstile.enter()
                yield await self._reader.read(lines[start : start + LINES_AT_ONCE])

    async def _cut(self) -> AsyncIterator[list[bytes | None]]:
        while (part := await self._parts.next()) is not None:
            if self._hash is not None:
                self._hash.update(part)
            yield self._cutter.take(part)
        self._is_whole = True
        yield self._cutter.end()
