"""The answer to a request that is several exchanges: their answers, put together as if one had made it."""

from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec

from app.exchanges.exchange import Ending, ExchangeRun
from app.exchanges.news import News
from app.exchanges.parts import Part
from app.exchanges.request import ExchangeRequest
from engines.contract.exchanges import AnswerHead, Exchange

Json: TypeAlias = dict[str, Any]  # Any: the parts of an answer that nothing here is about
Tokens: TypeAlias = dict[str, Any]
EVENT, END_OF_EVENT, DONE = b"data: ", b"\n\n", b"data: [DONE]\n\n"
LISTED = {
    Exchange.COMPLETIONS: "choices",
    Exchange.EMBEDDINGS: "data",
    Exchange.POOLING: "data",
    Exchange.CLASSIFY: "data",
}

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_entries = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_encode = msgspec.json.Encoder().encode


class ManyAnswers:
    """An Answering. The first part that is refused, or fails, is the answer of all."""

    def __init__(self, request: ExchangeRequest, parts: list[Part], runs: list[ExchangeRun]) -> None:
        self.news = News()
        self.head: AnswerHead | None = None
        self._ending: Ending | None = None
        self._streams = request.streams
        self._listed = LISTED[request.path]
        self._width = request.sequences if request.path is Exchange.COMPLETIONS else 1
        self._parts = parts
        self._runs = runs
        self._id: str | None = None
        self._usage: Tokens = {}
        self._last: Json | None = None  # the last event that holds nothing but usage
        for run in runs:
            run.news = self.news

    @property
    def ending(self) -> Ending | None:
        """How it ends, once that is certain. A stream has been taken before."""
        if self._ending is None:
            self._ending = self._find_ending()
        return self._ending

    def take(self) -> bytes:
        """What has come of all streams, with the places that the choices have in the whole."""
        taken: list[bytes] = []
        for part, run in zip(self._parts, self._runs, strict=True):
            body = run.take()
            if body:
                self.head = self.head or run.head
                taken.extend(self._renumbered(body, part))
                run.taken(len(body))
        return b"".join(taken)

    def taken(self, size: int) -> None:
        """Parts are told as they are put together: together they are as far ahead as one stream a prompt may be."""

    # -- endings

    def _find_ending(self) -> Ending | None:
        for run in self._runs:
            found = run.ending
            if found is not None and (found.error is not None or found.is_refusal):
                return found
        endings = [run.ending for run in self._runs]
        if any(ending is None for ending in endings):
            return None
        if self._streams:
            return Ending(body=self._last_events())
        return self._whole([ending for ending in endings if ending is not None])

    def _whole(self, endings: list[Ending]) -> Ending:
        """One body of all parts' bodies. Vectors may be long: what stands in an entry stays as it came."""
        bodies = [_fields(ending.body) for ending in endings]
        entries = [entry for body in bodies for entry in _entries(body[self._listed])]
        for place, entry in enumerate(entries):
            entry["index"] = msgspec.Raw(b"%d" % place)
        whole = bodies[0] | {self._listed: msgspec.Raw(_encode(entries))}
        if bytes(whole.get("usage", b"")).startswith(b"{"):
            whole["usage"] = msgspec.Raw(_encode(_sum([_decode(body["usage"]) for body in bodies])))
        return Ending(endings[0].head, _encode(whole))

    # -- streams

    def _renumbered(self, body: bytes, part: Part) -> Iterator[bytes]:
        for event in body.split(END_OF_EVENT):
            if not event.startswith(EVENT) or event.startswith(DONE.rstrip()):
                continue
            content = _decode(event[len(EVENT) :])
            if "error" in content:
                yield event + END_OF_EVENT
                continue
            self._id = content["id"] = self._id or content["id"]
            if not content["choices"]:
                self._usage = _sum([self._usage, content["usage"]])
                self._last = content
                continue
            for choice in content["choices"]:
                choice["index"] += part.first * self._width
            yield EVENT + _encode(content) + END_OF_EVENT

    def _last_events(self) -> bytes:
        if self._last is None:
            return DONE
        return EVENT + _encode(self._last | {"usage": self._usage}) + END_OF_EVENT + DONE


def _sum(usages: list[Tokens]) -> Tokens:
    """Of counts by name, those of counts within counts, too."""
    total: Tokens = {}
    for usage in usages:
        for name, value in usage.items():
            before = total.get(name)
            if isinstance(value, dict):
                total[name] = _sum([before or {}, value])
            elif isinstance(value, int):
                total[name] = (before or 0) + value
            else:
                total.setdefault(name, value)
    return total
