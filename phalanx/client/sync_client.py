"""`phalanx.Client`: batches for programs that wait for them."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Unpack

import httpx

from phalanx.batch_status import BatchStatus
from phalanx.client import calls, sync_io
from phalanx.client.batch_info import BatchInfo, Page, decoded
from phalanx.client.exchange import BatchOptions, Patience, Prompt, ServiceClient, tls
from phalanx.client.sync_batch import Batch
from phalanx.client.sync_io import Closed, ResultStream


class Client(Closed, ServiceClient[httpx.Client]):
    """A service's address. Use it in a `with` block, or `close` it. Its arguments are those of ServiceClient."""

    def generate(self, prompts: Iterable[Prompt], **options: Unpack[BatchOptions]) -> ResultStream:
        """Results as they come, each with the index of its prompt. Nothing is sent before the first is asked for.

        Prompts that are no sequence, such as a generator, are encoded as they are sent, so they may be more than fit
        into memory; their results come once all were sent. More than 1 MiB of an iterator is not sent again.

        Leaving the stream cancels what has no result yet. The stream raises PhalanxError.
        """
        return sync_io.generate(self._connection, calls.generation(prompts, options))

    def submit(
        self,
        prompts: Iterable[Prompt],
        *,
        idempotency_key: str | None = None,
        expires_after_s: float | None = None,
        metadata: Mapping[str, Any] | None = None,  # Any: JSON
        **options: Unpack[BatchOptions],
    ) -> Batch:
        """A detached batch, which is durable when this returns, and outlives this program and the service's restarts.

        Prompts are encoded as they are sent, so they may be more than fit into memory. An iterator, such as a
        generator, can be read once only: when more than 1 MiB of it was sent, the batch is not sent again, even when
        there was no room. Give a list, or an object whose `__iter__` begins anew.

        With an `idempotency_key` the same batch is accepted once however often it is sent, so a lost connection is
        tried again for up to `patience_s`. Without one MaybeAccepted is raised when the answer is lost. `metadata` is
        handed back in BatchInfo; a batch that has not begun after `expires_after_s` expires. Raises PhalanxError.
        """
        call = calls.submission(prompts, options, idempotency_key, expires_after_s, metadata)
        patience = Patience(self._connection.patience_s, survives_outages=idempotency_key is not None)
        info = decoded(BatchInfo, sync_io.ask(self._connection, call, patience))
        return Batch(self._connection, info.id, info)

    def batch(self, id_: str) -> Batch:
        """The handle of a batch that was submitted before. Asks nothing."""
        return Batch(self._connection, id_)

    def batches(self, status: Collection[BatchStatus] = (), limit: int | None = None) -> Iterator[BatchInfo]:
        """Detached batches, newest first, with one of these statuses if any are given; no more than `limit`."""
        paging = calls.Paging(status, limit)
        while (call := paging.next()) is not None:
            yield from paging.take(decoded(Page, sync_io.ask(self._connection, call)))

    def close(self) -> None:
        """Closes its connections."""
        self._connection.http.close()

    def _open(self, headers: dict[str, str], timeout: httpx.Timeout) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=headers, timeout=timeout, trust_env=False, verify=tls())
