"""Large batches and many small ones, through a service with two simulated ranks.

The clients check every answer themselves (bench/load_clients.py): one result per item, in order, ok, and with the
text that belongs to its prompt.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from bench.load_clients import Load, LoadClients, LoadReport
from bench.phalanx_server import PhalanxServer, serving
from bench.processes import Cost, cost_of, wait_until

pytestmark = pytest.mark.load

ONE_REQUEST = Load(requests=1, items_per_request=10_000, clients=1)
MANY_REQUESTS = Load(requests=2_000, items_per_request=5, clients=200)
ROUNDS = 5
ALLOWED_GROWTH_MIB = 16.0
ALLOWED_CPU_US = 150.0  # of the gateway, per item
SETTLE_S = 10.0
GIVEN_BACK_S = 180.0  # ten million prompts take the gateway 56 s of CPU time, and others may have its core


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PhalanxServer]:
    folder: Path = tmp_path_factory.mktemp("load")
    with serving(["--engine", "simulated", "--dp-size", "2"], folder) as server:
        yield server


@pytest.fixture(scope="module")
def idle_files(server: PhalanxServer) -> int:
    """Files that the gateway has open before anybody puts it under load."""
    return cost_of(server.pids[0]).open_files


@pytest.fixture(scope="module")
def clients(server: PhalanxServer, idle_files: int) -> Iterator[LoadClients]:
    with LoadClients(server.url, processes=2) as clients:
        yield clients


@pytest.fixture(scope="module")
def first(clients: LoadClients) -> LoadReport:
    """The first answers to these items, which later ones must equal."""
    return clients.run(ONE_REQUEST)


def test_ten_thousand_items_in_one_request_are_all_answered_once_and_in_order(first: LoadReport) -> None:
    assert not first.errors
    assert len(first.texts) == ONE_REQUEST.items
    assert len(set(first.texts.values())) > 0.99 * ONE_REQUEST.items, "different prompts have different answers"


def test_both_ranks_share_a_large_batch(first: LoadReport) -> None:
    assert sorted(first.items_by_rank) == [0, 1]
    assert max(first.items_by_rank.values()) < 0.6 * ONE_REQUEST.items


def test_two_hundred_clients_get_the_same_answers_in_small_requests(clients: LoadClients, first: LoadReport) -> None:
    report = clients.run(MANY_REQUESTS)
    assert not report.errors
    assert report.texts == first.texts
    assert len(report.latencies_s) == MANY_REQUESTS.requests


def test_the_gateway_is_afterwards_as_it_was_before(
    server: PhalanxServer, clients: LoadClients, idle_files: int
) -> None:
    before = _cost_after(MANY_REQUESTS, server, clients, idle_files)
    for _ in range(ROUNDS):
        for load in (ONE_REQUEST, MANY_REQUESTS):
            after = _cost_after(load, server, clients, idle_files)
    assert after.rss_mib - before.rss_mib < ALLOWED_GROWTH_MIB
    assert after.threads == before.threads
    items = ROUNDS * (ONE_REQUEST.items + MANY_REQUESTS.items)
    assert (after.cpu_s - before.cpu_s) / items * 1e6 < ALLOWED_CPU_US


def test_nothing_waits_when_all_is_answered(server: PhalanxServer, first: LoadReport) -> None:
    lines = httpx.get(f"{server.url}/metrics", trust_env=False).text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("phalanx_"))
    for name in ("phalanx_backlog_items", "phalanx_backlog_tokens", "phalanx_running_items", "phalanx_active_batches"):
        assert float(values[name]) == 0, name
    assert float(values['phalanx_items_total{status="ok"}']) >= len(first.texts)


def _cost_after(load: Load, server: PhalanxServer, clients: LoadClients, idle_files: int) -> Cost:
    """Puts the load on the service, and looks at the gateway once its clients' connections are closed."""
    report = clients.run(load)
    assert not report.errors
    pid = server.pids[0]
    has_closed = wait_until(lambda: cost_of(pid).open_files <= idle_files, SETTLE_S)
    assert has_closed, f"{cost_of(pid).open_files} files are open, {idle_files} were"
    return cost_of(pid)


def test_a_hundred_large_batches_at_once_do_not_hold_the_event_loop(server: PhalanxServer) -> None:
    """Ten million prompts in forty megabytes: taking them in is minutes of work, and nobody else waits for it."""
    body = b'{"prompts":[' + b",".join([b'"a"'] * 100_000) + b"]}"
    head = b"POST /v1/batch_generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    address = ("127.0.0.1", httpx.URL(server.url).port or 80)
    waits: list[float] = []
    with ExitStack() as connections:
        for _ in range(100):
            connection = connections.enter_context(socket.create_connection(address, timeout=60))
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        ends = time.monotonic() + 10
        while time.monotonic() < ends:
            began = time.monotonic()
            assert server.client.get("/health/live").status_code == 200
            waits.append(time.monotonic() - began)
    assert max(waits) < 3, f"the slowest of {len(waits)} probes took {max(waits):.1f} s"
    assert wait_until(lambda: "phalanx_held_bytes 0.0" in server.client.get("/metrics").text, GIVEN_BACK_S)
