"""NDJSON bodies larger than the gateway's memory: attached from a client that reads nothing before all is sent, and in
the background into a gateway that a cgroup holds to 500 MB.

The second needs root and cgroup v1's memory controller, or is skipped.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bench.processes import peak_bytes
from tests.service import BATCH, Service, starting, until

pytestmark = [pytest.mark.load, pytest.mark.timeout(1800)]

PROMPT = "a word and " * 1000  # 11 kB
LINES_A_PIECE = 100
TIMEOUT_S = 1500.0
MOST_PEAK_BYTES = 400_000_000
CGROUP_BYTES = 500_000_000
CONTROLLER = Path("/sys/fs/cgroup/memory")


def lines(size: int, **options: object) -> Iterator[bytes]:
    """A body of so many bytes, about."""
    yield (
        json.dumps({"object": "batch_generation.options", "sampling_params": {"max_tokens": 4}, **options}).encode()
        + b"\n"
    )
    for start in range(0, items_in(size), LINES_A_PIECE):
        yield b"".join(b'"%d %b"\n' % (index, PROMPT.encode()) for index in range(start, start + LINES_A_PIECE))


def items_in(size: int) -> int:
    return size // len(PROMPT) // LINES_A_PIECE * LINES_A_PIECE


@contextlib.contextmanager
def held_to(limit: int, pid: int) -> Iterator[None]:
    """The process alone has no more memory than that, the pages of its files counted in; the kernel kills it else."""
    group = CONTROLLER / f"phalanx-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit))
        (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        pytest.skip(f"no cgroup can be made: {error}")
    try:
        yield
    finally:
        (CONTROLLER / "cgroup.procs").write_text(str(pid))
        group.rmdir()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with starting("--data-dir", str(tmp_path / "data"), "--max-stored-bytes", "10GiB") as service:
        yield service.wait_ready()


def test_a_client_that_reads_only_after_it_has_sent_a_gigabyte_is_answered(service: Service) -> None:
    size = 10**9
    answer = httpx.post(
        service.url + BATCH,
        content=lines(size),
        headers={"Content-Type": "application/x-ndjson"},
        timeout=TIMEOUT_S,
    )
    *results, summary = answer.text.splitlines()
    assert json.loads(summary)["request_counts"]["ok"] == items_in(size)
    assert sum('"batch_generation.result"' in line for line in results) == items_in(size)
    print(f"peak {peak_bytes(service.process.pid) / 1e6:.0f} MB")  # noqa: T201  a measurement
    assert peak_bytes(service.process.pid) < MOST_PEAK_BYTES


@pytest.mark.parametrize("way", ["background", "attached"])
def test_three_gigabytes_go_into_a_gateway_of_half_of_one(service: Service, way: str) -> None:
    size = 3 * 10**9
    options = {"background": True} if way == "background" else {}
    with held_to(CGROUP_BYTES, service.process.pid):
        answer = httpx.post(
            service.url + BATCH,
            content=lines(size, **options),
            headers={"Content-Type": "application/x-ndjson"},
            timeout=TIMEOUT_S,
        )
        if way == "attached":
            counts = json.loads(answer.text.splitlines()[-1])["request_counts"]
        else:
            path = f"{BATCH}/{answer.json()['id']}"
            until(lambda: service.client.get(path).json()["ended_at"], "it does not end", TIMEOUT_S)
            counts = service.client.get(path).json()["request_counts"]
        print(f"{way}: peak {peak_bytes(service.process.pid) / 1e6:.0f} MB")  # noqa: T201  a measurement
        assert counts["ok"] == counts["total"] == items_in(size)
        assert service.process.poll() is None
