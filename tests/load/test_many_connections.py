"""Ten thousand connections at once: all are served, those beyond are told so, and the loop is never held for long."""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.raw_client import HEAD
from tests.service import Service, longest, serving

pytestmark = pytest.mark.load

CONNECTIONS = 10_000
BEYOND = 100
MAX_LAG_S = 1.0
BODY = b'{"prompts":["hello","you"],"sampling_params":{"max_tokens":16}}'
REQUEST = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving("--head-timeout-s", "60", "--max-connections", f"{CONNECTIONS + 1}") as service:  # and one that looks
        yield service


@pytest.fixture(scope="module", autouse=True)
def files() -> None:
    """This process has as many open as the gateway."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = CONNECTIONS + BEYOND + 500
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"the hard limit of open files is {hard}, and {needed} are needed: raise it (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def connect(service: Service, stack: ExitStack) -> socket.socket:
    """One more."""
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=120)
    stack.callback(connection.close)
    return connection


def answer(connection: socket.socket) -> bytes:
    """To the end of its last chunk."""
    received = b""
    while not received.endswith(b"0\r\n\r\n") and (part := connection.recv(65536)):
        received += part
    return received


def test_ten_thousand_connections_that_ask_at_once_are_all_answered(service: Service) -> None:
    assert service.batch(["first"])["request_counts"]["ok"] == 1
    with ExitStack() as stack:
        connections = [connect(service, stack) for _ in range(CONNECTIONS)]
        beyond = [connect(service, stack) for _ in range(BEYOND)]
        assert {connection.recv(12) for connection in beyond} == {b"HTTP/1.1 503"}
        for connection in connections:
            connection.sendall(REQUEST)
        answers = [answer(connection) for connection in connections]
    assert (
        sum(found.startswith(b"HTTP/1.1 200 ") and found.count(b'"status":"ok"') == 2 for found in answers)
        == CONNECTIONS
    )
    assert longest(service.lags()) <= MAX_LAG_S
    assert service.batch(["last"])["request_counts"]["ok"] == 1
    assert service.is_idle()
