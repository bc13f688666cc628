"""The answer to a batch: 200 and its headers at once, a space now and then until the body, then the body.

The spaces keep clients and proxies with idle timeouts from hanging up; JSON allows them. A client that goes away
gives its batch up.
"""

import asyncio
from collections.abc import Iterable, Iterator

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.batches.batch import Batch
from app.batches.results import Usage
from app.batches.service import BatchService
from app.batches.stats import Stats
from engines import tasks

PIECE_BYTES = 64 * 1024  # of an answer that are handed over at a time; a client has --send-timeout-s for each
_encode = msgspec.json.Encoder().encode


class BatchHead(msgspec.Struct, kw_only=True):
    """What stands before the results."""

    id: str
    object: str = "batch_generation"
    model: str
    created_at: int


class BatchTail(msgspec.Struct, kw_only=True):
    """What stands after the results."""

    request_counts: dict[str, int]
    usage: Usage
    stats: Stats


class BatchResponse(Response):
    """Waits for the batch and sends it."""

    media_type = "application/json"

    def __init__(self, batch: Batch, batches: BatchService, keepalive_s: float) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._batch = batch
        self._batches = batches
        self._keepalive_s = keepalive_s
        self._client_is_gone = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer. Never leaves the batch running behind a client that is gone."""
        watcher = tasks.start(self._watch_client(receive), f"client of {self._batch.id}", self._lose_client)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while not await self._is_done_soon():
                await send({"type": "http.response.body", "body": b" ", "more_body": True})
            if await self._send_body(send):
                self._batch.trace.answered()
        finally:
            self._batches.cancel(self._batch)
            if self._batch.holding is not None:
                self._batch.holding.close()
            await tasks.end(watcher)

    async def _send_body(self, send: Send) -> bool:
        """Whether all of it was sent; the end goes with the last piece, for small answers are many."""
        parts = pieces(body(self._batch))
        piece = next(parts)
        for following in parts:
            if self._client_is_gone:
                return False
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)  # a client that reads as fast as this would leave nobody else a turn
            piece = following
        await send({"type": "http.response.body", "body": piece, "more_body": False})
        return True

    async def _is_done_soon(self) -> bool:
        try:
            async with asyncio.timeout(self._keepalive_s):
                await self._batch.done.wait()
        except TimeoutError:
            return False
        return True

    async def _watch_client(self, receive: Receive) -> None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self._lose_client()
                return

    def _lose_client(self, *_: object) -> None:
        """It is gone, or nobody can tell any more."""
        self._client_is_gone = True
        self._batches.cancel(self._batch)


def body(batch: Batch) -> Iterator[bytes]:
    """The JSON of an answer, in pieces: the results are spliced in as they came from the ranks."""
    head = BatchHead(id=batch.id, model=batch.model, created_at=batch.created_at)
    yield _encode(head)[:-1] + b',"results":['
    for index in range(batch.size):
        yield b"," + batch.result(index) if index else batch.result(index)
    counts: dict[str, int] = {"total": batch.size} | dict(batch.counts.items())
    tail = BatchTail(request_counts=counts, usage=batch.usage, stats=batch.stats.summary())
    yield b"]," + _encode(tail)[1:]


def pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of `PIECE_BYTES`: small parts together, large ones apart."""
    piece = bytearray()
    for part in parts:
        piece += part
        while len(piece) >= PIECE_BYTES:
            yield bytes(piece[:PIECE_BYTES])
            del piece[:PIECE_BYTES]
    yield bytes(piece)
