"""What both clients have in common: how a request is made, and what the lines of its answer are. No input or output."""

import random
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypedDict

import httpx
import msgspec

from phalanx.client.errors import ConnectionFailed, IncompleteAnswer, PhalanxError, Refused, TryLater, refusal
from phalanx.client.results import Line, Progress, Result, Summary

NDJSON = "application/x-ndjson"
PATH = "/v1/batch_generate"
POSTED = {"Content-Type": "application/json", "Accept": NDJSON}
CONNECT_TIMEOUT_S = 10.0
DEFAULT_PAUSE_S = 1.0  # where the service does not say how long
SPREAD = 0.1  # of a pause, at random: clients that were refused together do not come back together

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


def base_url(url: str) -> str:
    """With a scheme, and no slash at the end."""
    return (url if "://" in url else f"http://{url}").rstrip("/")


def headers(api_key: str | None) -> dict[str, str]:
    """Of every request."""
    return {"Authorization": f"Bearer {api_key.strip()}"} if api_key else {}


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


class Answer:
    """The lines of a streamed answer, from bytes as they come."""

    def __init__(self) -> None:
        self.summary: Summary | None = None
        self.progress: Progress | None = None
        self._unfinished = b""

    def take(self, part: bytes) -> Iterator[Result]:
        """The results that are whole now. Raises IncompleteAnswer for what is no line of an answer."""
        *lines, self._unfinished = (self._unfinished + part).split(b"\n")
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
