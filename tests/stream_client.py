"""A client that reads a batch's answer line by line, as slowly as it likes."""

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any, Self

from tests.service import BATCH, DEADLINE_S, Json, Service, as_object

PROGRESS, RESULT, SUMMARY = (f"batch_generation.{kind}" for kind in ("progress", "result", "summary"))
SMALL_BUFFER_BYTES = 64 * 1024  # of a client that reads slowly: the kernel would read megabytes for it


class Stream:
    """A batch that was sent, and whose status has come."""

    def __init__(
        self,
        service: Service,
        prompts: object,
        *,
        headers: dict[str, str] | None = None,
        buffer_bytes: int | None = None,
        **fields: Any,
    ) -> None:
        self.received_bytes = 0
        self._connection = http.client.HTTPConnection(service.host, service.port, timeout=DEADLINE_S)
        self._connection.sock = _connect(service, buffer_bytes)
        body = json.dumps({"prompts": prompts, "stream": True, **fields}, separators=(",", ":"))  # as httpx writes it
        self._connection.request("POST", BATCH, body, {"Content-Type": "application/json"} | (headers or {}))
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200, self._answer.read()
        assert self._answer.headers["Content-Type"] == "application/x-ndjson"

    def __iter__(self) -> Iterator[Json]:
        """Its lines, as they come, to the end of the answer: which is too early if the connection breaks."""
        while line := self._answer.readline():
            self.received_bytes += len(line)
            assert line.endswith(b"\n"), line[-200:]
            yield as_object(line.decode())

    def next(self, kind: str) -> Json:
        """The next line of this kind."""
        return next(line for line in self if line["object"] == kind)

    def hang_up(self) -> None:
        """Goes away. May be called twice."""
        self._answer.close()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()


def results_of(lines: list[Json], count: int) -> list[Json]:
    """The results of a whole stream, in the order they came: one for each item, and a summary that agrees with them."""
    first, *_, last = lines
    assert (first["object"], last["object"]) == (PROGRESS, SUMMARY)
    assert first["id"] == last["id"]
    results = [line for line in lines if line["object"] == RESULT]
    assert sorted(result["index"] for result in results) == list(range(count))
    assert {line["object"] for line in lines} == {PROGRESS, RESULT, SUMMARY}
    assert [line["object"] for line in lines].count(SUMMARY) == 1
    statuses = [result["status"] for result in results]
    named = ("ok", "error", "cancelled", "timeout")
    assert last["request_counts"] == {"total": count} | {name: statuses.count(name) for name in named}
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert last["usage"][name] == sum(result["usage"][name] for result in results)
    return results


def _connect(service: Service, buffer_bytes: int | None) -> socket.socket:
    connection = socket.socket()
    connection.settimeout(DEADLINE_S)
    if buffer_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    connection.connect((service.host, service.port))
    return connection
