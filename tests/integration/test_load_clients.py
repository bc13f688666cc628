"""`python -m tests.load` against a service of simulated ranks: what it measures, and which errors it tells apart."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.keys.key import KeyLimits
from app.keys.store import KeysFile
from tests.service import Service, serving

ROOT = Path(__file__).parents[2]
BRIEFLY = ("--duration", "1.5s", "--clients", "4", "--prompts-per-request", "5", "--max-tokens", "3")


@pytest.fixture(scope="module")
def keys() -> Iterator[KeysFile]:
    with tempfile.TemporaryDirectory(prefix="px-keys-") as folder:
        yield KeysFile(Path(folder) / "keys.json")


@pytest.fixture(scope="module")
def api_key(keys: KeysFile) -> str:
    return keys.create("quick").secret


@pytest.fixture(scope="module")
def slow_key(keys: KeysFile) -> str:
    """It may send a request a second."""
    return keys.create("slow", limits=KeyLimits(requests_per_s=1)).secret


@pytest.fixture(scope="module")
def service(keys: KeysFile, api_key: str, slow_key: str) -> Iterator[Service]:
    with serving("--api-keys-file", str(keys.path), api_key=api_key, step_ms=2) as service:
        yield service


def load(url: str, api_key: str = "", *flags: str) -> tuple[int, dict[str, list[str]]]:
    """The exit code, and the lines of the tables by their first column."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.load", "--url", url, *BRIEFLY, *flags],
        cwd=ROOT,
        env=os.environ | {"PHALANX_API_KEY": api_key},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr == ""
    rows = [re.split(r"\s{2,}", line.strip()) for line in done.stdout.splitlines()[1:] if line.strip()]
    return done.returncode, {row[0]: row[1:] for row in rows}


def number(cell: str) -> float:
    return float(cell.replace(",", ""))


@pytest.mark.parametrize("flags", [(), ("--stream",)], ids=["whole", "streamed"])
def test_it_measures_throughput_and_latencies(service: Service, api_key: str, flags: tuple[str, ...]) -> None:
    before = service.metric("phalanx_items_total", status="ok")
    exit_code, rows = load(service.url, api_key, *flags)
    assert exit_code == 0 and "ERROR" not in rows
    requests, items, tokens = (number(rows[name][0]) for name in ("requests", "items", "tokens"))
    assert requests > 4
    assert (items, tokens) == (5 * requests, 15 * requests)
    assert items == service.metric("phalanx_items_total", status="ok") - before
    assert 0 < number(rows["items"][1]) < items  # a second, of more than one
    latencies = [number(cell) for cell in rows["latency, s"]]
    assert len(latencies) == 4 and latencies == sorted(latencies) and latencies[0] > 0
    assert service.is_idle()


def test_clients_that_are_told_to_come_back_later_do_so_and_it_is_counted(service: Service, slow_key: str) -> None:
    exit_code, rows = load(service.url, slow_key)
    assert exit_code == 0
    assert number(rows["requests"][0]) >= 1
    (kind,) = [row for row in rows if row.startswith("429 ")]
    assert 1 <= number(rows[kind][0]) <= 8  # of four clients that wait a second each time, in a second and a half


def test_refusals_and_lost_connections_are_told_apart(service: Service) -> None:
    exit_code, rows = load(service.url, "phx-unknown")
    assert exit_code == 1 and number(rows["401 invalid_api_key"][0]) >= 4
    exit_code, rows = load("http://127.0.0.1:1", "", "--stream")
    assert exit_code == 1 and number(rows["ConnectError"][0]) >= 4
    assert rows["latency, s"] == ["-"] * 4
