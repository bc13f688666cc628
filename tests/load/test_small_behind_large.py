"""Twenty items behind a million in the background: they have the next free sequences, and wait no longer than on ranks
that are as busy with nothing behind it."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.service import BATCH, Service, serving, until

pytestmark = [pytest.mark.load, pytest.mark.timeout(900)]

ITEMS = 1_000_000
LINES_A_PIECE = 5000
SEQUENCES = 64  # of each of two ranks
STEP_MS = 20
TOKENS = {"max_tokens": 50, "ignore_eos": True}
LONGEST_S = 50 * STEP_MS / 1000
SLACK_S = 0.5  # of a machine with two cores


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with serving("--data-dir", str(tmp_path / "data"), step_ms=STEP_MS, max_num_seqs=SEQUENCES) as service:
        yield service


def body() -> Iterator[bytes]:
    options = {"object": "batch_generation.options", "background": True, "sampling_params": TOKENS}
    yield json.dumps(options).encode() + b"\n"
    for _ in range(ITEMS // LINES_A_PIECE):
        yield b'"a"\n' * LINES_A_PIECE


def seconds_for_twenty(service: Service) -> float:
    began = time.monotonic()
    assert service.batch(["b"] * 20, sampling_params=TOKENS)["request_counts"]["ok"] == 20
    return time.monotonic() - began


def test_twenty_behind_a_million_wait_for_one_item_at_most(service: Service) -> None:
    with service.begin(["c"] * 2 * SEQUENCES, sampling_params=TOKENS) as busy:
        until(lambda: sum(service.held) == 2 * SEQUENCES, "they are not busy")
        without = seconds_for_twenty(service)
        busy.answer()
    headers = {"Content-Type": "application/x-ndjson"}
    large = httpx.post(service.url + BATCH, content=body(), headers=headers, timeout=300).json()["id"]
    until(lambda: service.client.get(f"{BATCH}/{large}").json()["last_seq"] > 500, "it does not run")
    behind = [seconds_for_twenty(service) for _ in range(3)]
    print(f"{without:.2f} s without a backlog, {', '.join(f'{s:.2f}' for s in behind)} s behind a million")  # noqa: T201
    assert max(behind) <= without + LONGEST_S + SLACK_S
    service.client.post(f"{BATCH}/{large}/cancel")
    until(lambda: service.client.get(f"{BATCH}/{large}").json()["ended_at"], "it is not cancelled")
