"""An answer to a batch that lives as long as its client's connection: 200 at once, or nearly, and the rest as it comes.

A client that goes away gives its batch up. One that waits hears something now and then, so that neither it nor a proxy
with an idle timeout hangs up.
"""

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.leaving import leaving_of
from app.batches.result_stream import ResultStream
from app.batches.results_in_memory import ResultsInMemory
from app.batches.run import BatchRun
from engines import tasks

PIECE_BYTES = 64 * 1024  # of an answer that are handed over at a time; a client has --send-timeout-s for each
SinkT = TypeVar("SinkT", bound=ResultsInMemory | ResultStream)


class AttachedResponse(Response, ABC, Generic[SinkT]):
    """Sends the answer to a batch, in the form that its subclass gives it."""

    def __init__(self, run: BatchRun[SinkT], cancel: Callable[[BatchRun[SinkT]], None], keepalive_s: float) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._run = run
        self._cancel = cancel
        self._keepalive_s = keepalive_s
        self._client_is_gone = False

    @abstractmethod
    async def _send_answer(self, send: Send) -> bool:
        """Sends all that follows the headers. Whether it was all sent."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer. Never leaves the batch running behind a client that is gone."""
        leaving = leaving_of(scope)
        leaving.when_gone(self._lose_client)
        try:
            await self._wait_to_begin()
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            if await self._send_answer(send):
                self._run.trace.answered()
        finally:
            leaving.forget(self._lose_client)
            self._cancel(self._run)
            self._run.sink.release()

    async def _wait_to_begin(self) -> None:
        """Until the headers may be sent. Raises RequestError, which is answered instead."""

    async def _send_parts(self, send: Send, parts: Iterable[bytes], is_end: Callable[[], bool]) -> bool:
        """Whether all of them were sent. If they are the end, that goes with the last piece: small answers are many."""
        cut = pieces(parts)
        piece = next(cut)
        for following in cut:
            if self._client_is_gone:
                return False
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)  # a client that reads as fast as this would leave nobody else a turn
            piece = following
        await send({"type": "http.response.body", "body": piece, "more_body": not is_end()})
        return not self._client_is_gone

    async def _comes_soon(self, event: asyncio.Event, within_s: float = math.inf) -> bool:
        """Whether it comes before the client has to hear something, and within so many seconds."""
        return await tasks.comes_within(event, min(within_s, self._keepalive_s))

    def _lose_client(self, *_: object) -> None:
        """It is gone, or nobody can tell any more."""
        self._client_is_gone = True
        self._cancel(self._run)


def pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of `PIECE_BYTES`: small parts together, large ones apart."""
    piece = bytearray()
    for part in parts:
        piece += part
        while len(piece) >= PIECE_BYTES:
            yield bytes(piece[:PIECE_BYTES])
            del piece[:PIECE_BYTES]
    yield bytes(piece)
