"""`phalanx.AsyncClient`: batches for programs with an event loop."""

import asyncio
import contextlib
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from types import TracebackType
from typing import Self, Unpack

import httpx

from phalanx.client import exchange
from phalanx.client.errors import PhalanxError
from phalanx.client.exchange import BatchOptions, BatchStream, Patience, Prompt, ServiceClient
from phalanx.client.results import Result


class _Closed:
    """What is closed at the end of its `async with` block."""

    @abstractmethod
    async def close(self) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncClient(_Closed, ServiceClient[httpx.AsyncClient]):
    """A service's address. Use it in a `async with` block, or `close` it. Its arguments are those of ServiceClient."""

    def generate(self, prompts: Iterable[Prompt], **options: Unpack[BatchOptions]) -> "AsyncResultStream":
        """Results as they come, each with the index of its prompt. Nothing is sent before the first is asked for.

        Leaving the stream cancels what has no result yet. The stream raises PhalanxError.
        """
        return AsyncResultStream(self._http, self.url, exchange.body(prompts, options), self._patience_s)

    async def close(self) -> None:
        """Closes its connections."""
        await self._http.aclose()

    def _open(self, headers: dict[str, str], timeout: httpx.Timeout) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=timeout, trust_env=False)


class AsyncResultStream(_Closed, BatchStream, AsyncIterator[Result]):
    """The results of one batch; see BatchStream."""

    def __init__(self, http: httpx.AsyncClient, url: str, body: bytes, patience_s: float) -> None:
        super().__init__()
        self._results = self._run(http, url, body, patience_s)

    async def close(self) -> None:
        """Hangs up: what has no result yet is cancelled. May be called twice."""
        await self._results.aclose()

    async def __anext__(self) -> Result:
        return await anext(self._results)

    async def _run(
        self, http: httpx.AsyncClient, url: str, body: bytes, patience_s: float
    ) -> AsyncGenerator[Result, None]:
        response = await _post(http, url, body, Patience(patience_s))
        try:
            async for part in response.aiter_bytes():
                for result in self._answer.take(part):
                    yield result
        except httpx.HTTPError as error:
            raise self._answer.broken(str(error) or type(error).__name__) from error
        finally:
            await response.aclose()
        self._answer.end()


async def _post(http: httpx.AsyncClient, url: str, body: bytes, patience: Patience) -> httpx.Response:
    """The answer whose body is still to come."""
    while True:
        request = http.build_request("POST", exchange.PATH, content=body, headers=exchange.POSTED)
        try:
            response = await http.send(request, stream=True)
            if response.status_code == httpx.codes.OK:
                return response
            async with contextlib.aclosing(response):
                failed: PhalanxError = exchange.refused(response, await response.aread())
        except httpx.HTTPError as error:
            failed = exchange.unreachable(url, error)
        await asyncio.sleep(patience.pause_s(failed))
