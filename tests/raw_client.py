"""A client that speaks to the gateway byte by byte, as slowly and as wrongly as it likes."""

import json
import socket
import time

from tests.service import BATCH, DEADLINE_S, Json, Service, until

HEAD_S, BODY_S, SEND_S = 1.0, 1.0, 1.5
MAX_CONNECTIONS = 200
FLAGS = (
    *("--head-timeout-s", f"{HEAD_S}", "--body-timeout-s", f"{BODY_S}", "--send-timeout-s", f"{SEND_S}"),
    *("--min-body-rate", "20KB", "--max-connections", f"{MAX_CONNECTIONS}", "--max-held-bytes", "24MiB"),
)
MAX_LAG_S = 1.0
HEAD = (
    f"POST {BATCH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
).encode()  # its end is still to come


def check_unharmed(service: Service) -> None:
    """A batch runs as ever, the loop was never held for long, and neither connections nor memory are held."""
    answer = service.batch([f"Prompt {index}" for index in range(100)])
    assert answer["request_counts"]["ok"] == 100
    assert service.longest_lag_s <= MAX_LAG_S
    until(lambda: service.metric("phalanx_http_connections") <= 2, "connections are left", 20)
    until(lambda: service.metric("phalanx_held_bytes") == 0, "memory is held", 20)


class Raw:
    """A connection, byte by byte."""

    def __init__(self, service: Service) -> None:
        self.socket = socket.create_connection(("127.0.0.1", service.port), timeout=DEADLINE_S)
        self.began = time.monotonic()

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
        """Since it was opened."""
        return time.monotonic() - self.began

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def cut(service: Service, reason: str) -> float:
    """Connections that the gateway has ended for this reason."""
    return service.metric("phalanx_connections_cut_total", reason=reason)
