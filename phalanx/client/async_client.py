"""`phalanx.AsyncClient`: batches for programs with an event loop."""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from typing import Any, Unpack

import httpx

from phalanx.batch_status import BatchStatus
from phalanx.client import async_io, calls
from phalanx.client.async_batch import AsyncBatch
from phalanx.client.async_io import AsyncResultStream, Closed
from phalanx.client.batch_info import BatchInfo, Page, decoded
from phalanx.client.exchange import BatchOptions, Patience, Prompt, ServiceClient, tls


class AsyncClient(Closed, ServiceClient[httpx.AsyncClient]):
    """A service's address. Use it in a `async with` block, or `close` it. Its arguments are those of ServiceClient."""

    def generate(self, prompts: Iterable[Prompt], **options: Unpack[BatchOptions]) -> AsyncResultStream:
        """Results as they come, each with the index of its prompt. Nothing is sent before the first is asked for.

        Prompts that are no sequence are sent as they are read, on the event loop; see Client.generate. Leaving the
        stream cancels what has no result yet. The stream raises PhalanxError.
        """
        return async_io.generate(self._connection, calls.generation(prompts, options))

    async def submit(
        self,
        prompts: Iterable[Prompt],
        *,
        idempotency_key: str | None = None,
        expires_after_s: float | None = None,
        metadata: Mapping[str, Any] | None = None,  # Any: JSON
        **options: Unpack[BatchOptions],
    ) -> AsyncBatch:
        """A detached batch, durable when this returns; see Client.submit.

        `prompts` is read on the event loop, some 64 KiB at a time.
        """
        call = calls.submission(prompts, options, idempotency_key, expires_after_s, metadata)
        patience = Patience(self._connection.patience_s, survives_outages=idempotency_key is not None)
        info = decoded(BatchInfo, await async_io.ask(self._connection, call, patience))
        return AsyncBatch(self._connection, info.id, info)

    def batch(self, id_: str) -> AsyncBatch:
        """The handle of a batch that was submitted before. Asks nothing."""
        return AsyncBatch(self._connection, id_)

    async def batches(self, status: Collection[BatchStatus] = (), limit: int | None = None) -> AsyncIterator[BatchInfo]:
        """Detached batches, newest first, with one of these statuses if any are given; no more than `limit`."""
        paging = calls.Paging(status, limit)
        while (call := paging.next()) is not None:
            for info in paging.take(decoded(Page, await async_io.ask(self._connection, call))):
                yield info

    async def close(self) -> None:
        """Closes its connections."""
        await self._connection.http.aclose()

    def _open(self, headers: dict[str, str], timeout: httpx.Timeout) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=timeout, trust_env=False, verify=tls())
