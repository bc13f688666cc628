"""An answer that is made piece by piece, for as long as its client is there: it may be gzipped as it goes."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.answer_form import qualities
from app.api.leaving import unless_gone
from app.errors import BrokenOff
from app.journal.errors import JournalError

GZIP_WBITS = 31  # zlib's name for gzip's format
GZIP_LEVEL = 1  # texts shrink to a quarter at it; more costs several times the time


def accepts_gzip(request: Request) -> bool:
    """Whether the client can read gzip."""
    accepted = qualities(", ".join(request.headers.getlist("accept-encoding")))
    return accepted.get("gzip", accepted.get("*", 0.0)) > 0


class PipedResponse(Response):
    """Sends pieces as they come. One that fails midway ends the connection, so that nobody takes it for whole."""

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        media_type: str,
        *,
        gzip: bool = False,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.media_type = media_type
        super().__init__(status_code=status)
        del self.headers["content-length"]
        self.headers.update(headers or {})
        self._pieces = pieces
        self._packer = zlib.compressobj(GZIP_LEVEL, wbits=GZIP_WBITS) if gzip else None
        self.headers["vary"] = "Accept-Encoding"
        if gzip:
            self.headers["content-encoding"] = "gzip"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Until all is sent, or the client is gone. Before that it raises JournalError, which is answered instead."""
        first = await anext(self._pieces, b"")
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await unless_gone(self._send_all(first, send), scope, f"answer to {scope['path']}")

    async def _send_all(self, first: bytes, send: Send) -> None:
        await self._send(first, send)
        try:
            async for piece in self._pieces:
                await self._send(piece, send)
        except JournalError as error:
            raise BrokenOff(str(error)) from error
        end = self._packer.flush() if self._packer is not None else b""
        await send({"type": "http.response.body", "body": end, "more_body": False})

    async def _send(self, piece: bytes, send: Send) -> None:
        if packed := await self._packed(piece):
            await send({"type": "http.response.body", "body": packed, "more_body": True})
        await asyncio.sleep(0)  # a client that reads as fast as this would leave nobody else a turn

    async def _packed(self, piece: bytes) -> bytes:
        """What the client can make the whole piece of."""
        packer = self._packer
        if packer is None:
            return piece
        return await asyncio.to_thread(lambda: packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH))
