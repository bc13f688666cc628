"""`phalanx.Client`: batches for programs that wait for them."""

import time
from collections.abc import Generator, Iterable, Iterator
from types import TracebackType
from typing import Self, Unpack

import httpx

from phalanx.client import exchange
from phalanx.client.errors import PhalanxError
from phalanx.client.exchange import Answer, BatchOptions, Patience, Prompt
from phalanx.client.results import Progress, Result, Summary


class Client:
    """A service's address. Use it in a `with` block, or `close` it.

    `silence_s`: a service that says nothing for so long is given up. `patience_s`: for how long a request is sent again
    while there is no room, at the service's own pace (Retry-After).
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        silence_s: float = 120.0,
        patience_s: float = 600.0,
    ) -> None:
        self.url = exchange.base_url(url)
        self._patience_s = patience_s
        self._http = httpx.Client(
            base_url=self.url,
            headers=exchange.headers(api_key),
            timeout=exchange.timeout(silence_s),
            trust_env=False,
        )

    def generate(self, prompts: Iterable[Prompt], **options: Unpack[BatchOptions]) -> "ResultStream":
        """Results as they come, each with the index of its prompt. Nothing is sent before the first is asked for.

        Leaving the stream cancels what has no result yet. The stream raises PhalanxError.
        """
        return ResultStream(self._http, self.url, exchange.body(prompts, options), self._patience_s)

    def close(self) -> None:
        """Closes its connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ResultStream(Iterator[Result]):
    """The results of one batch. `summary` is there when all have come; `progress` says how far it is."""

    def __init__(self, http: httpx.Client, url: str, body: bytes, patience_s: float) -> None:
        self._answer = Answer()
        self._results = self._run(http, url, body, patience_s)

    @property
    def summary(self) -> Summary | None:
        """Counts, tokens and times of the whole batch, once it has ended."""
        return self._answer.summary

    @property
    def progress(self) -> Progress | None:
        """What the service said last."""
        return self._answer.progress

    def close(self) -> None:
        """Hangs up: what has no result yet is cancelled. May be called twice."""
        self._results.close()

    def __next__(self) -> Result:
        return next(self._results)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
        except httpx.HTTPError as error:
            failed: PhalanxError = exchange.unreachable(url, error)
        else:
            if response.status_code == httpx.codes.OK:
                return response
            failed = exchange.refused(response, response.read())
            response.close()
        time.sleep(patience.pause_s(failed))
