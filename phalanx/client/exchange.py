"""What both clients have in common: how a request is made, and what the lines of its answer are. No input or output."""

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypedDict, TypeVar

import httpx
import msgspec

from phalanx.address import authorization, base_url
from phalanx.client.errors import ConnectionFailed, IncompleteAnswer, PhalanxError, Refused, TryLater, refusal
from phalanx.client.results import Line, Progress, Result, Summary

NDJSON = "application/x-ndjson"
PATH = "/v1/batch_generate"
POSTED = {"Content-Type": "application/json", "Accept": NDJSON}
CONNECT_TIMEOUT_S = 10.0
DEFAULT_PAUSE_S = 1.0  # where the service does not say how long
SPREAD = 0.1  # of a pause, at random: clients that were refused together do not come back together

HttpT = TypeVar("HttpT", httpx.Client, httpx.AsyncClient)
Prompt = str | list[int] | Mapping[str, Any]  # Any: the JSON of an item, such as {"messages": [...]}


class BatchOptions(TypedDict, total=False):
    """What may be said of a whole batch; README.md and /openapi.json describe each."""

    sampling_params: Mapping[str, Any]  # Any: JSON, by vLLM's names
    model: str
    timeout_s: float
    priority: int
    return_token_ids: bool
    return_prompt: bool


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode


def timeout(silence_s: float) -> httpx.Timeout:
    """A service that works says something every few seconds."""
    return httpx.Timeout(silence_s, connect=min(CONNECT_TIMEOUT_S, silence_s))


def body(prompts: Iterable[Prompt], options: BatchOptions) -> bytes:
    """What is posted."""
    return _encode({"prompts": list(prompts), "stream": True, **options})


class Patience:
    """How long a client goes on asking a service that has no room."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    def pause_s(self, error: PhalanxError) -> float:
        """How long to wait before the next attempt. Raises the error when it is none that time mends, or too long."""
        if not isinstance(error, TryLater):
            raise error
        pause_s = error.retry_after_s or DEFAULT_PAUSE_S
        pause_s *= 1 + random.random() * SPREAD  # noqa: S311  no secret
        if time.monotonic() + pause_s > self._until:
            raise error
        return pause_s


class ServiceClient(ABC, Generic[HttpT]):
    """A service's address, and a pool of connections to it.

    `silence_s`: a service that says nothing for so long is given up. `patience_s`: for how long a request is sent again
    while there is no room, at the service's own pace (Retry-After). Raises ImpossibleKey.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        silence_s: float = 120.0,
        patience_s: float = 600.0,
    ) -> None:
        self.url = base_url(url)
        self._patience_s = patience_s
        self._http: HttpT = self._open(authorization(api_key or None), timeout(silence_s))

    @abstractmethod
    def _open(self, headers: dict[str, str], timeout: httpx.Timeout) -> HttpT: ...


class BatchStream:
    """The results of one batch. `summary` is there when all have come; `progress` says how far it is."""

    def __init__(self) -> None:
        self._answer = Answer()

    @property
    def summary(self) -> Summary | None:
        """Counts, tokens and times of the whole batch, once it has ended."""
        return self._answer.summary

    @property
    def progress(self) -> Progress | None:
        """What the service said last."""
        return self._answer.progress


class Answer:
    """The lines of a streamed answer, from bytes as they come."""

    def __init__(self) -> None:
        self.summary: Summary | None = None
        self.progress: Progress | None = None
        self._unfinished: list[bytes] = []  # parts of the last line: it may be large, and come in many

    def take(self, part: bytes) -> Iterator[Result]:
        """The results that are whole now. Raises IncompleteAnswer for what is no line of an answer."""
        head, *others = part.split(b"\n")
        self._unfinished.append(head)
        if not others:
            return
        *lines, rest = b"".join(self._unfinished), *others
        self._unfinished = [rest]
        for line in lines:
            if line.strip():
                yield from self._read(line)

    def end(self) -> None:
        """Nothing more comes. Raises IncompleteAnswer when there should."""
        if self.summary is None:
            raise self.broken("the answer ended before its summary")

    def broken(self, reason: str) -> IncompleteAnswer:
        """The error for an answer that broke off."""
        batch = f" of {self.progress.id}" if self.progress else ""
        return IncompleteAnswer(f"{reason}: the answer{batch} is incomplete; what came before it is valid")

    def _read(self, line: bytes) -> Iterator[Result]:
        try:
            found = _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self.broken(f"a line is none of Phalanx's ({error})") from None
        match found:
            case Result():
                yield found
            case Summary():
                self.summary = found
            case Progress():
                self.progress = found


def refused(response: httpx.Response, body: bytes) -> Refused:
    """The error for an answer that is none of a batch."""
    given = response.headers
    return refusal(response.status_code, body, given.get("retry-after"), given.get("x-request-id"))


def unreachable(url: str, error: httpx.HTTPError) -> ConnectionFailed:
    """The error for a service that did not answer."""
    return ConnectionFailed(f"nobody answers at {url} ({error or type(error).__name__})")
