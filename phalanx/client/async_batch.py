"""`phalanx.client.AsyncBatch`: a detached batch, for programs with an event loop."""

import asyncio

from phalanx.client import async_io, calls
from phalanx.client.async_io import AsyncConnection, AsyncResultStream
from phalanx.client.batch_info import BatchHandle, BatchInfo, decoded
from phalanx.client.calls import Call
from phalanx.client.exchange import Patience
from phalanx.client.following import Following, Waiting


class AsyncBatch(BatchHandle):
    """A handle of a detached batch, which lives in the service: the methods are those of Batch."""

    def __init__(self, connection: AsyncConnection, id_: str, info: BatchInfo | None = None) -> None:
        super().__init__(id_, info)
        self._connection = connection

    async def refresh(self) -> BatchInfo:
        """How it is now."""
        return await self._ask(calls.show(self.id))

    async def wait(self, timeout_s: float | None = None) -> BatchInfo:
        """How it is once it has ended. Raises TimeoutError; see Batch.wait."""
        waiting = Waiting(timeout_s, self._connection.patience_s)
        while True:
            info = await self._ask(calls.show(self.id), waiting.patience())
            if info.is_done:
                return info
            await asyncio.sleep(waiting.pause_s(self.id))

    def results(self, after: int = 0, *, follow: bool = True) -> AsyncResultStream:
        """Results in the order of `seq`, from the one after `after` on, each item's once; see Batch.results."""
        following = Following(self.id, after, self._connection.patience_s, follow=follow)
        return async_io.follow(self._connection, following)

    async def cancel(self) -> BatchInfo:
        """Gives up what has no result yet. One that has ended stays as it is."""
        return await self._ask(calls.cancel(self.id))

    async def resume(self, timeout_s: float | None = None, expires_after_s: float | None = None) -> BatchInfo:
        """Runs again what has no result, or one that may be retried. Raises Conflict for a batch that runs."""
        return await self._ask(calls.resume(self.id, timeout_s, expires_after_s))

    async def delete(self) -> None:
        """Removes its prompts and results for good. Raises Conflict while it is open."""
        await async_io.ask(self._connection, calls.delete(self.id))

    async def _ask(self, call: Call, patience: Patience | None = None) -> BatchInfo:
        self._info = decoded(BatchInfo, await async_io.ask(self._connection, call, patience))
        return self._info
