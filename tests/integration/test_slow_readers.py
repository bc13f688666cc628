"""Clients that read a stream more slowly than the ranks work: their batches are held back, and nobody else's."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.raw_client import cut
from tests.service import Json, Service, serving, until
from tests.stream_client import RESULT, SMALL_BUFFER_BYTES, Stream, results_of

ITEMS = 20_000
TOKENS = {"max_tokens": 500}  # 2 KB of text: all results are 45 MB, of which the kernel holds 4 MB at the most
WINDOW_BYTES = 1_000_000
SEND_S = 4.0  # for the client that is cut off; longer than the gateway may have to wait for a core
MOST_GROWTH_BYTES = 16_000_000
SOON_S = 60.0
FLAGS = ("--stream-window-bytes", f"{WINDOW_BYTES}", "--prefetch", "8")


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving(*FLAGS, max_num_seqs=64) as service:
        service.batch(["a"] * 100, sampling_params=TOKENS)  # what is only made once is there
        yield service


def resident_bytes(service: Service, name: str = "VmRSS") -> int:
    """The memory that the gateway's process has; VmHWM: the most it ever had."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    (kib,) = [line.split()[1] for line in status.splitlines() if line.startswith(f"{name}:")]
    return int(kib) * 1024


def held_back(service: Service) -> Json | None:
    """What the metrics say once nothing of the batch moves any more, though nothing is done."""
    waiting = service.backlog
    if not waiting or sum(service.held):
        return None
    time.sleep(0.2)
    return {"waiting": waiting} if service.backlog == waiting and not sum(service.held) else None


def slow_reader(service: Service, **fields: object) -> Stream:
    return Stream(service, ["a"] * ITEMS, sampling_params=TOKENS, buffer_bytes=SMALL_BUFFER_BYTES, **fields)


def test_a_slow_reader_holds_its_own_batch_back_and_takes_no_memory(service: Service) -> None:
    with slow_reader(service) as slow:
        assert slow.next(RESULT)
        until(lambda: held_back(service), "it is not held back", SOON_S)
        before = resident_bytes(service)
        assert service.metric("phalanx_batches_held_back") == 1
        assert service.batch(["b"] * 500, sampling_params=TOKENS)["request_counts"]["ok"] == 500
        lines = list(slow)
    assert len([line for line in lines if line["object"] == RESULT]) == ITEMS - 1
    assert lines[-1]["request_counts"]["ok"] == ITEMS
    assert resident_bytes(service, "VmHWM") - before < MOST_GROWTH_BYTES
    until(lambda: service.metric("phalanx_held_bytes") == 0, "memory is held")
    assert service.metric("phalanx_batches_held_back") == 0


def test_what_is_left_at_a_timeout_comes_as_slowly_as_it_is_read(service: Service) -> None:
    with slow_reader(service, timeout_s=3, return_prompt=True) as slow:
        until(lambda: held_back(service), "it is not held back", SOON_S)
        until(lambda: service.metric("phalanx_active_batches") == 0, "its time is not up", SOON_S)
        results = results_of(list(slow), ITEMS)
    assert {result["status"] for result in results} == {"ok", "timeout"}
    assert {result["prompt"] for result in results} == {"a"}


def test_a_reader_that_takes_nothing_is_cut_off_and_frees_what_it_holds() -> None:
    with serving(*FLAGS, "--send-timeout-s", f"{SEND_S}", max_num_seqs=64) as service, slow_reader(service) as stuck:
        assert stuck.next(RESULT)
        until(lambda: cut(service, "slow_reader") == 1, "it is not cut off", SOON_S)
        until(service.is_idle, "its items are still there", SOON_S)
        until(lambda: service.metric("phalanx_held_bytes") == 0, "memory is held", SOON_S)
