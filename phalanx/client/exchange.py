"""What both clients have in common: an address, patience, and what the lines of an answer are. No input or output."""

import functools
import random
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypedDict, TypeVar

import httpx
import msgspec

from phalanx.address import authorization, base_url
from phalanx.client.errors import ConnectionFailed, IncompleteAnswer, PhalanxError, Refused, TryLater, refusal
from phalanx.client.results import Failure, Line, Progress, Result, Summary

CONNECT_TIMEOUT_S = 10.0
LONGEST_WRITE_S = 86_400.0  # patience may be infinite, and a socket's timeout may not
DEFAULT_PAUSE_S = 1.0  # where the service does not say how long
# What a service that is restarting, or a network that fails for a while, does to a request.
TEMPORARY = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError, httpx.ProxyError)
PROXYS_OUTAGES = (httpx.codes.BAD_GATEWAY, httpx.codes.GATEWAY_TIMEOUT)  # a proxy's word for a service that is away
SPREAD = 0.1  # of a pause, at random: clients that were refused together do not come back together

HttpT = TypeVar("HttpT", httpx.Client, httpx.AsyncClient)
OnWait = Callable[[PhalanxError, float], None]  # what went wrong, and for how many seconds one waits
Prompt = str | list[int] | Mapping[str, Any]  # Any: the JSON of an item, such as {"messages": [...]}


class BatchOptions(TypedDict, total=False):
    """What may be said of a whole batch; README.md and /openapi.json describe each."""

    sampling_params: Mapping[str, Any]  # Any: JSON, by vLLM's names
    model: str
    timeout_s: float
    priority: int
    return_token_ids: bool
    return_prompt: bool


_decode = msgspec.json.Decoder(Line).decode


def timeout(silence_s: float, patience_s: float) -> httpx.Timeout:
    """A service that works says something every few seconds. One that has no room may leave a body unread for long."""
    write_s = min(max(silence_s, patience_s), LONGEST_WRITE_S)
    return httpx.Timeout(silence_s, connect=min(CONNECT_TIMEOUT_S, silence_s), write=write_s)


@functools.cache
def tls() -> ssl.SSLContext:
    """Made once: each client would read all certificates for its own."""
    return httpx.create_ssl_context(trust_env=False)


class Patience:
    """How long a client goes on asking a service that has no room, or, if it survives outages, one that is away."""

    def __init__(self, seconds: float, *, survives_outages: bool = False) -> None:
        self._seconds = seconds
        self._survives_outages = survives_outages
        self.renew()

    def renew(self) -> None:
        """Something came: what goes wrong now is a new trouble."""
        self._until = time.monotonic() + self._seconds

    def pause_s(self, error: PhalanxError) -> float:
        """How long to wait before the next attempt. Raises the error when it is none that time mends, or too long."""
        if not (isinstance(error, TryLater) or (self._survives_outages and _is_outage(error))):
            raise error
        pause_s = (isinstance(error, TryLater) and error.retry_after_s) or DEFAULT_PAUSE_S
        pause_s *= 1 + random.random() * SPREAD  # noqa: S311  no secret
        if time.monotonic() + pause_s > self._until:
            raise error
        return pause_s


def _is_outage(error: PhalanxError) -> bool:
    match error:
        case ConnectionFailed():
            return error.is_temporary
        case Refused():
            return error.status in PROXYS_OUTAGES
    return isinstance(error, IncompleteAnswer)


class ServiceClient(ABC, Generic[HttpT]):
    """A service's address, and a pool of connections to it.

    `silence_s`: a service that says nothing for so long is given up. `patience_s`: for how long a request is sent again
    while there is no room, at the service's own pace (Retry-After); waiting for a detached batch, reading it and
    submitting it with a key outlast an outage of the service for as long. `on_wait` is called before each such pause,
    with what went wrong and the seconds. Raises ImpossibleKey, and ConnectionFailed for what is no URL.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        silence_s: float = 120.0,
        patience_s: float = 600.0,
        on_wait: OnWait | None = None,
    ) -> None:
        self.url = base_url(url)
        try:
            http = self._open(authorization(api_key or None), timeout(silence_s, patience_s))
        except httpx.InvalidURL as error:
            raise unreachable(self.url, error) from error
        self._connection: Connection[HttpT] = Connection(http, self.url, patience_s, on_wait)

    @abstractmethod
    def _open(self, headers: dict[str, str], timeout: httpx.Timeout) -> HttpT: ...


@dataclass(frozen=True)
class Connection(Generic[HttpT]):
    """What a client's batches and streams ask the service through."""

    http: HttpT
    url: str
    patience_s: float
    on_wait: OnWait | None

    def pause_s(self, patience: Patience, error: PhalanxError) -> float:
        """How long to wait before the next attempt; whoever wants to know is told. Raises the error."""
        pause_s = patience.pause_s(error)
        if self.on_wait is not None:
            self.on_wait(error, pause_s)
        return pause_s


class BatchStream:
    """The results of one batch. `summary` is there when all have come; `progress` says how far it is."""

    def __init__(self, answer: "Answer") -> None:
        self._answer = answer

    @property
    def summary(self) -> Summary | None:
        """Counts, tokens and times of the whole batch, once it has ended."""
        return self._answer.summary

    @property
    def progress(self) -> Progress | None:
        """What the service said last."""
        return self._answer.progress

    @property
    def line(self) -> bytes:
        """The JSON of the last result, as it came, without a newline."""
        return self._answer.line


class Answer:
    """The lines of a streamed answer, from bytes as they come. `line` is that of the result handed out last."""

    def __init__(self) -> None:
        self.summary: Summary | None = None
        self.progress: Progress | None = None
        self.line = b""
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

    def _given_up(self, failure: Failure) -> IncompleteAnswer:
        error = self.broken(f"the service gave the batch up: {failure.error.message}")
        error.code = failure.error.code
        return error

    def _read(self, line: bytes) -> Iterator[Result]:
        try:
            found = _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self.broken(f"a line is none of Phalanx's ({error})") from None
        match found:
            case Result():
                self.line = line
                yield found
            case Summary():
                self.summary = found
            case Progress():
                self.progress = found
            case Failure():
                raise self._given_up(found)


def refused(response: httpx.Response, body: bytes) -> Refused:
    """The error for an answer of another status than was asked for."""
    given = response.headers
    return refusal(response.status_code, body, given.get("retry-after"), given.get("x-request-id"))


def broken(url: str, error: httpx.HTTPError) -> str:
    """What happened to a connection."""
    return f"the connection to {url} broke ({str(error) or type(error).__name__})"


def unreachable(url: str, error: httpx.HTTPError | httpx.InvalidURL) -> ConnectionFailed:
    """The error for a service that did not answer."""
    reason = f"nobody answers at {url} ({str(error) or type(error).__name__})"
    failed = ConnectionFailed(reason, is_temporary=isinstance(error, TEMPORARY))
    failed.__cause__ = error
    return failed
