"""The requests of corpus/, and answers to them in a form in which those of two servers can be held against each other:
without ids and times, and a stream as what has come of it in the end, however it was cut into events."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from tests.exchanging import DONE
from tests.service import Json

CORPUS = Path(__file__).with_name("corpus")
WANTED = CORPUS / "wanted.json"
TIMEOUT_S = 60
ALLOWED_DIFFERENCE = 1e-3  # of log-probabilities: which requests share a step is chance
JSON_TYPE = "application/json"
EVENTS_TYPE = "text/event-stream"
# What is another one with each request, wherever it stands: ids, times, and what is found in a cache.
OWN = frozenset(
    {"id", "item_id", "call_id", "request_id", "created", "created_at", "completed_at", "system_fingerprint"}
    | {"cached_tokens", "cache_write_tokens"}
)
TOP = "top_logprobs"
UNLIKELY = -10.0  # as a log-probability: which of such tokens are among the most likely is chance
# What grows from event to event of a stream. Any other text in its place is said once more.
GROWING = frozenset({"arguments", "content", "delta", "partial_json", "reasoning", "text", "thinking"})


@dataclass(frozen=True)
class Request:
    """A request of the corpus: a body, or a text that is sent as it stands."""

    name: str
    path: str
    body: Json | None = None
    text: str = ""
    method: str = "POST"
    content_type: str | None = JSON_TYPE
    encoding: str = "utf-8"

    def send(self, http: httpx.Client, model: str) -> httpx.Response:
        """The answer. This model is asked for, unless the body says otherwise."""
        content = self.text.encode(self.encoding)
        if self.body is not None:
            content = json.dumps({"model": model} | self.body).encode()
        headers = {} if self.content_type is None else {"Content-Type": self.content_type}
        return http.request(self.method, self.path, content=content, headers=headers)


def requests() -> Iterator[Request]:
    """All of the corpus, by the names of their files and their own; those that are `streamed` as well, twice."""
    for file in sorted(CORPUS.glob("*.jsonl")):
        for line in file.read_text().splitlines():
            entry = _repeated(json.loads(line))
            is_streamed = entry.pop("streamed", False)
            request = Request(**entry | {"name": f"{file.stem}: {entry['name']}"})
            yield request
            if is_streamed:
                yield replace(request, name=f"{request.name}, streamed", body={**request.body, "stream": True})


def _repeated(value: Any) -> Any:
    """With what is too long for a line written out: {"repeat": "ab", "times": 2} is "abab"; lists likewise."""
    if isinstance(value, dict):
        if value.keys() == {"repeat", "times"}:
            return value["repeat"] * value["times"]
        return {name: _repeated(entry) for name, entry in value.items()}
    return [_repeated(entry) for entry in value] if isinstance(value, list) else value


# ---------------------------------------------------------------- answers


def content_of(answer: httpx.Response) -> Any:
    """What an answer says, of whatever type it is."""
    if answer.headers.get("content-type", "").startswith(EVENTS_TYPE):
        events = list(_events(answer.text))
        return _folded(events) if not events or "choices" in events[0] or "error" in events[0] else _joined(events)
    return _without_own(answer.json()) if answer.content else None


def _events(text: str) -> Iterator[Json]:
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" not in lines:
            continue
        content = {"done": True} if lines["data"] == DONE else _without_own(json.loads(lines["data"]))
        yield content | ({"event": lines["event"]} if "event" in lines else {})


def _folded(events: list[Json]) -> Json:
    """OpenAI's chunks as one answer, with how many of them tell the usage."""
    whole: Json = {"choices": {}}
    telling = sum(bool(event.get("usage")) for event in events)
    for event in events:
        assert "done" not in whole, "more comes after the end"
        for choice in event.pop("choices", ()):
            _grow(whole["choices"].setdefault(str(choice["index"]), {}), choice)
        _grow(whole, event)
    whole["told usage"] = {0: "never", 1: "once"}.get(telling, "all along")
    return whole


def _joined(events: list[Json]) -> list[Json]:
    """Events that have names: those that follow each other and are parts of one thing as one."""
    joined: list[Json] = []
    for event in events:
        event.pop("sequence_number", None)
        name = str(event.get("type", ""))
        if joined and name.endswith("delta") and joined[-1].get("type") == name:
            _grow(joined[-1], event)
        else:
            joined.append(event)
    return joined


def _grow(whole: Json, part: Json) -> None:
    for name, value in part.items():
        before = whole.get(name)
        if value is None or before is None:
            whole[name] = before if value is None else value
        elif isinstance(value, dict):
            _grow(before, value)
        elif isinstance(value, list) and value and isinstance(value[0], dict) and "index" in value[0]:
            for entry in value:  # calls of tools
                same = [known for known in before if known["index"] == entry["index"]]
                _grow(same[0], entry) if same else before.append(entry)
        elif isinstance(value, list) or (isinstance(value, str) and name in GROWING):
            whole[name] = before + value
        else:
            whole[name] = value


def _without_own(value: Any, name: str = "") -> Any:
    """Of what is another one with each request, that it is there, and what kind of id it is."""
    if name in OWN and isinstance(value, (str, int)):
        return value.replace("_", "-").partition("-")[0] if isinstance(value, str) else "a number"
    if isinstance(value, dict):
        return {key: _without_own(entry, key) for key, entry in value.items() if name != TOP or not _is_unlikely(entry)}
    if isinstance(value, list):
        return [_without_own(entry, name) for entry in value if name != TOP or not _is_unlikely(entry)]
    return value


def _is_unlikely(entry: Any) -> bool:
    """Of a token among the most likely: its log-probability, or an object with it."""
    logprob = entry.get("logprob") if isinstance(entry, dict) else entry
    return isinstance(logprob, float) and logprob < UNLIKELY


# ---------------------------------------------------------------- differences


def differences(ours: Any, theirs: Any, place: str = "") -> set[str]:
    """The places where two contents differ; entries of a list have one place together."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found = {_below(place, name) for name in ours.keys() ^ theirs.keys()}
        return found.union(
            *(differences(ours[name], theirs[name], _below(place, name)) for name in ours.keys() & theirs.keys())
        )
    if isinstance(ours, list) and isinstance(theirs, list):
        if len(ours) != len(theirs):
            return {f"{place}[]"}
        return set[str]().union(*(differences(a, b, f"{place}[]") for a, b in zip(ours, theirs, strict=True)))
    if isinstance(ours, float) and isinstance(theirs, float):
        return set() if abs(ours - theirs) <= ALLOWED_DIFFERENCE or ours == theirs else {place}
    return set() if ours == theirs and isinstance(ours, bool) == isinstance(theirs, bool) else {place}


def _below(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
