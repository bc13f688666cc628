"""The answer to a batch at once: a space now and then until all items have their results, then one JSON object.

JSON allows the spaces.
"""

from collections.abc import Iterator
from typing import TypeAlias

import msgspec
from starlette.types import Send

from app.api.attached_response import AttachedResponse
from app.batches.results import RequestCounts, Usage
from app.batches.results_in_memory import ResultsInMemory
from app.batches.run import BatchRun
from app.batches.stats import Stats

SOON_S = 0.1  # nobody has given up by then
_encode = msgspec.json.Encoder().encode
MemoryRun: TypeAlias = BatchRun[ResultsInMemory]


class BatchHead(msgspec.Struct, kw_only=True):
    """What stands before the results."""

    id: str
    object: str = "batch_generation"
    model: str
    created_at: int


class BatchTail(msgspec.Struct, kw_only=True):
    """What stands after the results."""

    request_counts: RequestCounts
    usage: Usage
    stats: Stats


class BatchResponse(AttachedResponse[ResultsInMemory]):
    """Waits for the batch and sends it."""

    media_type = "application/json"

    async def _wait_to_begin(self) -> None:
        """Head and body go together when the batch is done soon: two packets cost as much as three of its items."""
        await self._comes_soon(self._run.done, SOON_S)

    async def _send_answer(self, send: Send) -> bool:
        while not await self._comes_soon(self._run.done):
            await send({"type": "http.response.body", "body": b" ", "more_body": True})
        return await self._send_parts(send, body(self._run), lambda: True)


def body(run: MemoryRun) -> Iterator[bytes]:
    """The JSON of an answer, in parts: the results are spliced in as they came from the ranks."""
    record = run.record
    head = BatchHead(id=record.id, model=record.model, created_at=record.created_at)
    yield _encode(head)[:-1] + b',"results":['
    for index in range(run.total):
        yield b"," + run.sink.read(index) if index else run.sink.read(index)
    tail = BatchTail(request_counts=run.request_counts, usage=run.usage, stats=run.stats.summary())
    yield b"]," + _encode(tail)[1:]
