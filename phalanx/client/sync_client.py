"""`phalanx.Client`: batches for programs that wait for them."""

import contextlib
import time
from abc import abstractmethod
from collections.abc import Generator, Iterable, Iterator
from types import TracebackType
from typing import Self, Unpack

import httpx

from phalanx.client import exchange
from phalanx.client.errors import PhalanxError
from phalanx.client.exchange import BatchOptions, BatchStream, Patience, Prompt, ServiceClient
from phalanx.client.results import Result


class _Closed:
    """What is closed at the end of its `with` block."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Client(_Closed, ServiceClient[httpx.Client]):
    """A service's address. Use it in a `with` block, or `close` it. Its arguments are those of ServiceClient."""

    def generate(self, prompts: Iterable[Prompt], **options: Unpack[BatchOptions]) -> "ResultStream":
        """Results as they come, each with the index of its prompt. Nothing is sent before the first is asked for.

        Leaving the stream cancels what has no result yet. The stream raises PhalanxError.
        """
        return ResultStream(self._http, self.url, exchange.body(prompts, options), self._patience_s)

    def close(self) -> None:
        """Closes its connections."""
        self._http.close()

    def _open(self, headers: dict[str, str], timeout: httpx.Timeout) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=headers, timeout=timeout, trust_env=False)


class ResultStream(_Closed, BatchStream, Iterator[Result]):
    """The results of one batch; see BatchStream."""

    def __init__(self, http: httpx.Client, url: str, body: bytes, patience_s: float) -> None:
        super().__init__()
        self._results = self._run(http, url, body, patience_s)

    def close(self) -> None:
        """Hangs up: what has no result yet is cancelled. May be called twice."""
        self._results.close()

    def __next__(self) -> Result:
        return next(self._results)

    def _run(self, http: httpx.Client, url: str, body: bytes, patience_s: float) -> Generator[Result, None, None]:
        response = _post(http, url, body, Patience(patience_s))
        try:
            for part in response.iter_bytes():
                yield from self._answer.take(part)
        except httpx.HTTPError as error:
            raise self._answer.broken(str(error) or type(error).__name__) from error
        finally:
            response.close()
        self._answer.end()


def _post(http: httpx.Client, url: str, body: bytes, patience: Patience) -> httpx.Response:
    """The answer whose body is still to come."""
    while True:
        request = http.build_request("POST", exchange.PATH, content=body, headers=exchange.POSTED)
        try:
            response = http.send(request, stream=True)
            if response.status_code == httpx.codes.OK:
                return response
            with contextlib.closing(response):
                failed: PhalanxError = exchange.refused(response, response.read())
        except httpx.HTTPError as error:
            failed = exchange.unreachable(url, error)
        time.sleep(patience.pause_s(failed))
