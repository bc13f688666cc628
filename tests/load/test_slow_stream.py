"""200,000 results to a client that reads a megabyte a second: the gateway stays small, and others are served."""

import time
from collections.abc import Iterator

import pytest

from bench.processes import peak_bytes
from tests.service import Json, Service, serving, until
from tests.stream_client import RESULT, SMALL_BUFFER_BYTES, Stream, results_of

pytestmark = [pytest.mark.load, pytest.mark.timeout(900)]

ITEMS = 200_000
TOKENS = {"max_tokens": 16}
BYTES_PER_S = 1_000_000
MOST_GROWTH_BYTES = 24_000_000  # of some 75 MB that the results have
MOST_PROBE_S = 3.0
PROBE_EVERY_S = 2.0


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving("--max-batch-items", f"{ITEMS}") as service:
        service.batch(["a"] * 1000)  # what is only made once is there
        yield service


def test_a_slow_reader_of_a_large_stream_takes_no_memory_and_nobodys_time(service: Service) -> None:
    lines: list[Json] = []
    probes: list[float] = []
    with Stream(service, ["a"] * ITEMS, sampling_params=TOKENS, buffer_bytes=SMALL_BUFFER_BYTES) as slow:
        lines.append(slow.next("batch_generation.progress"))
        until(lambda: service.metric("phalanx_batches_held_back") == 1, "it is not held back")
        began, before = time.monotonic(), peak_bytes(service.process.pid)
        for line in slow:
            lines.append(line)
            if len(lines) % 1000 == 0:
                time.sleep(max(0.0, began + slow.received_bytes / BYTES_PER_S - time.monotonic()))
            if time.monotonic() - began > PROBE_EVERY_S * (len(probes) + 1):
                asked = time.monotonic()
                assert service.batch(["b"] * 20)["request_counts"]["ok"] == 20
                probes.append(time.monotonic() - asked)
    took_s, grown = time.monotonic() - began, peak_bytes(service.process.pid) - before
    print(f"{took_s:.0f} s, {slow.received_bytes / 1e6:.0f} MB", end=", ")  # noqa: T201  a measurement
    print(f"grown by {grown / 1e6:.1f} MB, slowest probe {max(probes):.2f} s")  # noqa: T201  the same
    assert sum(line["object"] == RESULT for line in results_of(lines, ITEMS)) == ITEMS
    assert took_s > 0.9 * slow.received_bytes / BYTES_PER_S
    assert grown < MOST_GROWTH_BYTES
    assert max(probes) < MOST_PROBE_S
    assert service.is_idle()
