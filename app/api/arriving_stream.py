"""The answer to a batch whose body is NDJSON: a stream that may begin while the body still comes.

What is wrong with the body later is said on the last line, in the place of a summary; nothing more of the batch runs.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Literal

import msgspec
from starlette.types import Receive, Scope, Send

from app.api.batch_stream import BatchStream
from app.api.refusals import log_refusal
from app.batches.arrival import Arrival
from app.errors import ErrorBody, RequestError, body_of
from app.gateway import Gateway
from engines import tasks

HELD_BYTES = 1 << 20  # parts and pieces that are on their way


class BatchError(msgspec.Struct, kw_only=True):
    """The last line of a stream whose batch ended with its body."""

    object: Literal["batch_generation.error"] = "batch_generation.error"
    id: str
    error: ErrorBody


_encode = msgspec.json.Encoder().encode


class ArrivingStream(BatchStream):
    """Takes the body in while it sends what is there."""

    def __init__(self, arrival: Arrival, bodies: AsyncIterator[list[bytes]], gateway: Gateway) -> None:
        super().__init__(arrival.run, gateway.runs.cancel, gateway.settings.keepalive_s)
        self._arrival = arrival
        self._bodies = bodies
        self._sink = arrival.run.sink
        self._failure: RequestError | None = None
        self._has_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        keeper = tasks.start(self._sink.keep_up(), f"spool of {self._run.record.id}", self._lose_client)
        taker = tasks.start(self._take_in(), f"body of {self._run.record.id}", self._lose_client)
        try:
            await super().__call__(scope, receive, send)
        finally:
            await tasks.end(keeper, taker)
            self._arrival.close()

    async def _wait_to_begin(self) -> None:
        """A body that is soon known to be wrong has a status of its own."""
        await self._comes_soon(self._sink.news)
        if self._failure is not None:
            raise self._failure
        self._has_begun = True

    async def _take_in(self) -> None:
        try:
            await self._arrival.take_in(self._bodies)
        except RequestError as error:
            self._fail(error)
            return
        self._sink.news.set()

    def _fail(self, error: RequestError) -> None:
        self._failure = error
        if self._has_begun:
            log_refusal(self._scope, error)
        if error.code == "incomplete_body":
            self._lose_client()
        self._cancel(self._run)
        self._sink.news.set()

    def _lines(self) -> Iterator[bytes]:
        for line in self._sink.take():
            yield line
            if self._failure is not None:
                break
        if self._failure is None and self._sink.is_read and not self._arrival.is_whole:
            self._failure = self._arrival.cut_off()
        if self._failure is not None:
            self._sink.is_read = True
            yield _encode(BatchError(id=self._run.record.id, error=body_of(self._failure))) + b"\n"
        elif self._sink.is_read:
            yield self._summary()
