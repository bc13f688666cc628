"""What the clients of a load saw: answers, their latencies, and errors by kind."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from phalanx.client import Result


class _Error(msgspec.Struct):
    code: str | None = None


class _Refusal(msgspec.Struct):
    error: _Error


class _Result(msgspec.Struct):
    status: str
    error: _Error | None = None


class _Usage(msgspec.Struct):
    completion_tokens: int


class _Answer(msgspec.Struct):
    """What is read of a batch's answer: the rest is skipped, for the clients should not be what is slow."""

    results: list[_Result]
    usage: _Usage


_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_refusal = msgspec.json.Decoder(_Refusal).decode


@dataclass
class Tally:
    """Counts while the load runs."""

    items: int = 0  # that are ok
    tokens: int = 0  # generated
    latencies_s: list[float] = field(default_factory=list)  # of requests with an answer, from sending to its last byte
    postponed: Counter[str] = field(default_factory=Counter)  # by kind: 429 and 503, which are sent again
    errors: Counter[str] = field(default_factory=Counter)  # by kind: whatever else went wrong
    seconds: float = 0.0  # from the first request to the last answer

    @property
    def requests(self) -> int:
        """Those with an answer."""
        return len(self.latencies_s)

    def answered(self, latency_s: float, body: bytes) -> None:
        """A request has a 200."""
        try:
            answer = _decode_answer(body)
        except msgspec.DecodeError:
            self.errors["200 without results"] += 1
            return
        self.latencies_s.append(latency_s)
        self.tokens += answer.usage.completion_tokens
        for result in answer.results:
            self._count(result.status, result.error.code if result.error else None)

    def streamed(self, latency_s: float, results: Iterable[Result]) -> None:
        """A request's stream has come whole."""
        self.latencies_s.append(latency_s)
        for result in results:
            self.tokens += result.usage.completion_tokens
            self._count(result.status, result.error.code if result.error else None)

    def refused(self, status: int, body: bytes) -> None:
        """A request has another status, and this body, an error of Phalanx's or not."""
        try:
            code = _decode_refusal(body).error.code
        except msgspec.DecodeError:
            code = None
        self.turned_away(status, code)

    def turned_away(self, status: int, code: str | None) -> None:
        """A request has another status. Its kind is the status, with the code if there is one."""
        counter = self.postponed if status in (429, 503) else self.errors
        counter[f"{status} {code or ''}".strip()] += 1

    def broke(self, error: Exception) -> None:
        """A request has no whole answer: its kind is the class of what broke it, such as a ConnectError."""
        self.errors[type(error.__cause__ or error).__name__] += 1

    def _count(self, status: str, code: str | None) -> None:
        if status == "ok":
            self.items += 1
        else:
            self.errors[f"item {code or status}"] += 1

    def percentile(self, percent: int) -> float | None:
        """The latency that so many percent of the requests do not exceed, in seconds. None without answers."""
        if not self.latencies_s:
            return None
        ordered = sorted(self.latencies_s)
        return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
