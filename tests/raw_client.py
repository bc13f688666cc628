"""A client that speaks to the gateway byte by byte, as slowly and as wrongly as it likes."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from tests.service import BATCH, DEADLINE_S, Json, Service, longest, until

HEAD_S, BODY_S = 3.0, 1.0  # for tests that wait them out. A client may pause between connecting and its first byte
PATIENT_BODY_S, SEND_S = 5.0, 4.0  # longer than a good client, or the gateway, may have to wait for a core
LATE_S = 15.0  # that an end may come after its deadline: less than the defaults, which would mean that nobody heeds it
MAX_CONNECTIONS = 200
FLAGS = (
    *("--body-timeout-s", f"{PATIENT_BODY_S}", "--send-timeout-s", f"{SEND_S}", "--min-body-rate", "20KB"),
    *("--max-connections", f"{MAX_CONNECTIONS}", "--max-held-bytes", "24MiB"),
)
IMPATIENT = (*FLAGS, "--head-timeout-s", f"{HEAD_S}", "--body-timeout-s", f"{BODY_S}")
MAX_HELD_S = 5.0  # the gateway's loop, at once: a body of 128 MiB is decoded in a third of a second, on an idle machine
HEAD = (
    f"POST {BATCH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
).encode()  # its end is still to come


@contextmanager
def unharmed(service: Service) -> Iterator[None]:
    """Inside, it is attacked. Then a batch runs as ever, the loop was never held for long, and nothing is held.

    The loop is late for want of a core, too. It was held no longer than it was late, nor than its thread has worked.
    """
    lags, worked_s = service.lags(), loop_worked_s(service.process.pid)
    yield
    body = json.dumps({"prompts": [f"Prompt {index}" for index in range(100)]}).encode()
    with Raw(service) as raw:  # which sends it in one piece: no deadline can pass between its parts
        raw.send(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        answer = raw.rest()
    assert b'"ok":100,' in answer, answer[-1000:]
    assert min(longest(service.lags() - lags), loop_worked_s(service.process.pid) - worked_s) <= MAX_HELD_S
    until(lambda: service.metric("phalanx_http_connections") <= 2, "connections are left")
    until(lambda: service.metric("phalanx_held_bytes") == 0, "memory is held")


def loop_worked_s(pid: int) -> float:
    """CPU time of a process's main thread, which runs its event loop."""
    (main,) = [thread for thread in psutil.Process(pid).threads() if thread.id == pid]
    return float(main.user_time + main.system_time)


class Raw:
    """A connection, byte by byte."""

    def __init__(self, service: Service) -> None:
        self.began = time.monotonic()  # first: no deadline of the gateway's begins earlier
        self.socket = socket.create_connection(("127.0.0.1", service.port), timeout=DEADLINE_S)

    def send(self, data: bytes) -> None:
        """All of it."""
        self.socket.sendall(data)

    def answer(self) -> bytes:
        """One answer whose body is a JSON object; the connection goes on."""
        received = b""
        while not received.endswith(b"}"):
            part = self.socket.recv(65536)
            assert part, f"the connection has ended after {received!r}"
            received += part
        return received

    def rest(self) -> bytes:
        """What comes until the server ends the connection."""
        received = b""
        try:
            while part := self.socket.recv(65536):
                received += part
        except ConnectionResetError:
            pass
        return received

    def error(self, status: int) -> Json:
        """The error that the server ends the connection with."""
        head, _, body = self.rest().partition(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ".encode()), head
        for header in (b"x-request-id: ", b"content-type: application/json", b"connection: close"):
            assert header in head.lower()
        found: Json = json.loads(body)["error"]
        return found

    @property
    def seconds(self) -> float:
        """Since it was about to be opened."""
        return time.monotonic() - self.began

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def cut(service: Service, reason: str) -> float:
    """Connections that the gateway has ended for this reason."""
    return service.metric("phalanx_connections_cut_total", reason=reason)
