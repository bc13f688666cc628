"""A client of OpenAI's API that sees what is on the wire."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.service import Json, Service

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
DONE = "[DONE]"


def ask(service: Service, path: str, *, api_key: str | None = None, **body: Any) -> httpx.Response:
    """The whole answer, whatever it is."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return service.client.post(path, json=body, headers=headers)


@contextmanager
def streaming(service: Service, path: str, **body: Any) -> Iterator["Events"]:
    """A stream that has begun."""
    with service.client.stream("POST", path, json={**body, "stream": True}) as answer:
        yield Events(answer)


class Events:
    """What comes of a stream, event by event. Comments are kept apart, and the names that some events have."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.comments = 0
        self.names: list[str] = []
        self._lines = _lines_of(answer)

    def __iter__(self) -> Iterator[Json | str]:
        for line in self._lines:
            if line.startswith(":"):
                self.comments += 1
            elif line.startswith("event: "):
                self.names.append(line.removeprefix("event: "))
            elif line:
                content = line.removeprefix("data: ")
                assert content != line, f"no event: {line!r}"
                yield DONE if content == DONE else json.loads(content)


def _lines_of(answer: httpx.Response) -> Iterator[str]:
    """To the ends of lines that this kind of stream has, which are not all that `str.splitlines` takes for one."""
    rest = b""
    for part in answer.iter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        yield from (line.decode() for line in lines)
    assert rest == b"", f"the stream breaks off: {rest!r}"


class Leaving:
    """A client that has sent a request, and may go at any time."""

    def __init__(self, service: Service, path: str, **body: Any) -> None:
        content = json.dumps(body)
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        self._socket = socket.create_connection((service.host, service.port), timeout=30)
        self._socket.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n{content}".encode())

    def read_events(self, count: int) -> None:
        """Waits for so many."""
        seen = b""
        while seen.count(b"data:") < count:
            seen += self._socket.recv(65536)

    def leave(self) -> None:
        """Without a word."""
        self._socket.close()


def texts_of(events: list[Json | str]) -> dict[int, str]:
    """The text of each choice of a stream of completions, or of chat."""
    texts: dict[int, str] = {}
    for event in events:
        for choice in event["choices"] if isinstance(event, dict) else ():
            part = choice["delta"].get("content") or "" if "delta" in choice else choice["text"]
            texts[choice["index"]] = texts.get(choice["index"], "") + part
    return texts


def usage_of(events: list[Json | str]) -> Json:
    """What the last event with nothing else says."""
    (usage,) = [event["usage"] for event in events if isinstance(event, dict) and event["choices"] == []]
    found: Json = usage
    return found
