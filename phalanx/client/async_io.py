"""The input and output of `phalanx.AsyncClient`: as sync_io.py, with an event loop."""

import asyncio
import contextlib
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from types import TracebackType
from typing import Self

import httpx

from phalanx.client import exchange
from phalanx.client.calls import Call
from phalanx.client.errors import PhalanxError
from phalanx.client.exchange import Answer, BatchStream, Connection, Patience
from phalanx.client.following import Following
from phalanx.client.results import Result

AsyncConnection = Connection[httpx.AsyncClient]


class Closed:
    """What is closed at the end of its `async with` block."""

    @abstractmethod
    async def close(self) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncResultStream(Closed, BatchStream, AsyncIterator[Result]):
    """The results of one batch; see BatchStream."""

    def __init__(self, answer: Answer, results: AsyncGenerator[Result, None]) -> None:
        super().__init__(answer)
        self._results = results

    async def close(self) -> None:
        """Hangs up. May be called twice. An attached batch is cancelled by it, a detached one runs on."""
        await self._results.aclose()

    async def __anext__(self) -> Result:
        return await anext(self._results)


async def ask(connection: AsyncConnection, call: Call, patience: Patience | None = None) -> bytes:
    """The answer, whole. Raises PhalanxError."""
    return (await _send(connection, call, patience or Patience(connection.patience_s), is_streamed=False)).content


def generate(connection: AsyncConnection, call: Call) -> AsyncResultStream:
    """The results of an attached batch. Nothing is sent before the first is asked for."""
    answer = Answer()
    return AsyncResultStream(answer, _read(connection, call, answer))


def follow(connection: AsyncConnection, following: Following) -> AsyncResultStream:
    """The results of a detached batch. Nothing is sent before the first is asked for."""
    return AsyncResultStream(following, _follow(connection, following))


async def _read(connection: AsyncConnection, call: Call, answer: Answer) -> AsyncGenerator[Result, None]:
    response = await _send(connection, call, Patience(connection.patience_s), is_streamed=True)
    try:
        async for part in response.aiter_bytes():
            for result in answer.take(part):
                yield result
    except httpx.HTTPError as error:
        raise answer.broken(str(error) or type(error).__name__) from error
    finally:
        await response.aclose()
    answer.end()


async def _follow(connection: AsyncConnection, following: Following) -> AsyncGenerator[Result, None]:
    following.patience.renew()
    while not following.is_over:
        response = await _send(connection, following.call(), following.patience, is_streamed=True)
        broken = None
        try:
            async for part in response.aiter_bytes():
                for result in following.take(part):
                    yield result
        except httpx.HTTPError as error:
            broken = error
        finally:
            await response.aclose()
        if not following.is_over:
            await asyncio.sleep(connection.pause_s(following.patience, following.broken_off(broken)))


async def _send(connection: AsyncConnection, call: Call, patience: Patience, *, is_streamed: bool) -> httpx.Response:
    """The answer. Its body is still to come if it is streamed."""
    http = connection.http
    while True:
        content = call.content()
        request = http.build_request(
            call.method,
            call.path,
            params=call.params,
            headers=call.headers,
            content=_pieces(content) if isinstance(content, Iterator) else content,
        )
        try:
            response = await http.send(request, stream=is_streamed)
            if response.is_success:
                return response
            async with contextlib.aclosing(response):
                failed: PhalanxError = exchange.refused(response, await response.aread())
        except httpx.HTTPError as error:
            failed = call.lost(connection.url, error)
        if not call.can_be_sent_again:
            raise failed
        await asyncio.sleep(connection.pause_s(patience, failed))


async def _pieces(content: Iterator[bytes]) -> AsyncIterator[bytes]:
    for piece in content:
        yield piece
