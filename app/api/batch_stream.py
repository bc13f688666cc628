"""The answer to a batch as a stream of lines, each a JSON object: results as they come, and a summary last.

A progress line comes first, with the batch's id, and again whenever nothing else was sent for a while. An answer
without a summary is incomplete: the service or the connection has failed.
"""

from collections.abc import Iterator

import msgspec
from starlette.types import Send

from app.api.answer_form import NDJSON
from app.api.attached_response import AttachedResponse
from app.batches.result_stream import ResultStream
from app.batches.results import RequestCounts, Usage
from app.batches.stats import Stats

_encode = msgspec.json.Encoder().encode


class BatchProgress(msgspec.Struct, kw_only=True):
    """The first line of a stream, and its heartbeat."""

    object: str = "batch_generation.progress"
    id: str
    request_counts: RequestCounts
    running: int
    waiting: int


class BatchSummary(msgspec.Struct, kw_only=True):
    """The last line of a stream."""

    object: str = "batch_generation.summary"
    id: str
    model: str
    created_at: int
    request_counts: RequestCounts
    usage: Usage
    stats: Stats


class BatchStream(AttachedResponse[ResultStream]):
    """Sends each result as soon as it is there; those that come together are one write."""

    media_type = NDJSON

    async def _send_answer(self, send: Send) -> bool:
        sink = self._run.sink
        await self._send_progress(send)
        while not sink.is_read:
            if not await self._comes_soon(sink.news):
                await self._send_progress(send)
            elif not await self._send_parts(send, self._lines(), lambda: sink.is_read):
                return False
        return True

    async def _send_progress(self, send: Send) -> None:
        await send({"type": "http.response.body", "body": self._progress(), "more_body": True})

    def _progress(self) -> bytes:
        run = self._run
        left = run.total - run.ended
        running = min(left, len(run.flow.running))  # where there may be some that were given up
        counts = run.request_counts
        return _line(BatchProgress(id=run.record.id, request_counts=counts, running=running, waiting=left - running))

    def _lines(self) -> Iterator[bytes]:
        """What is there now, and the summary when it is the last."""
        yield from self._run.sink.take()
        if self._run.sink.is_read:
            yield self._summary()

    def _summary(self) -> bytes:
        run, record = self._run, self._run.record
        return _line(
            BatchSummary(
                id=record.id,
                model=record.model,
                created_at=record.created_at,
                request_counts=run.request_counts,
                usage=run.usage,
                stats=run.stats.summary(),
            )
        )


def _line(line: BatchProgress | BatchSummary) -> bytes:
    return _encode(line) + b"\n"
