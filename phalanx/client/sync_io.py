"""The input and output of `phalanx.Client`: a request until it is answered, and results as they come."""

import contextlib
import time
from abc import abstractmethod
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Self

import httpx

from phalanx.client import exchange
from phalanx.client.calls import Call
from phalanx.client.errors import PhalanxError
from phalanx.client.exchange import Answer, BatchStream, Connection, Patience
from phalanx.client.following import Following
from phalanx.client.results import Result

SyncConnection = Connection[httpx.Client]


class Closed:
    """What is closed at the end of its `with` block."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ResultStream(Closed, BatchStream, Iterator[Result]):
    """The results of one batch; see BatchStream."""

    def __init__(self, answer: Answer, results: Generator[Result, None, None]) -> None:
        super().__init__(answer)
        self._results = results

    def close(self) -> None:
        """Hangs up. May be called twice. An attached batch is cancelled by it, a detached one runs on."""
        self._results.close()

    def __next__(self) -> Result:
        return next(self._results)


def ask(connection: SyncConnection, call: Call, patience: Patience | None = None) -> bytes:
    """The answer, whole. Raises PhalanxError."""
    return _send(connection, call, patience or Patience(connection.patience_s), is_streamed=False).content


def generate(connection: SyncConnection, call: Call) -> ResultStream:
    """The results of an attached batch. Nothing is sent before the first is asked for."""
    answer = Answer()
    return ResultStream(answer, _read(connection, call, answer))


def follow(connection: SyncConnection, following: Following) -> ResultStream:
    """The results of a detached batch. Nothing is sent before the first is asked for."""
    return ResultStream(following, _follow(connection, following))


def _read(connection: SyncConnection, call: Call, answer: Answer) -> Generator[Result, None, None]:
    response = _send(connection, call, Patience(connection.patience_s), is_streamed=True)
    try:
        for part in response.iter_bytes():
            yield from answer.take(part)
    except httpx.HTTPError as error:
        raise answer.broken(str(error) or type(error).__name__) from error
    finally:
        response.close()
    answer.end()


def _follow(connection: SyncConnection, following: Following) -> Generator[Result, None, None]:
    following.patience.renew()
    while not following.is_over:
        response = _send(connection, following.call(), following.patience, is_streamed=True)
        broken = None
        try:
            for part in response.iter_bytes():
                yield from following.take(part)
        except httpx.HTTPError as error:
            broken = error
        finally:
            response.close()
        if not following.is_over:
            time.sleep(connection.pause_s(following.patience, following.broken_off(broken)))


def _send(connection: SyncConnection, call: Call, patience: Patience, *, is_streamed: bool) -> httpx.Response:
    """The answer. Its body is still to come if it is streamed."""
    http = connection.http
    while True:
        request = http.build_request(
            call.method, call.path, params=call.params, headers=call.headers, content=call.content()
        )
        try:
            response = http.send(request, stream=is_streamed)
            if response.is_success:
                return response
            with contextlib.closing(response):
                failed: PhalanxError = exchange.refused(response, response.read())
        except httpx.HTTPError as error:
            failed = call.lost(connection.url, error)
        if not call.can_be_sent_again:
            raise failed
        time.sleep(connection.pause_s(patience, failed))
