"""Batches in the background beside the same items in an attached batch: time, memory of the gateway, lag of its event
loop, size of the journal, and how long looking takes. By default a million items on simulated ranks.

Both ways send the same NDJSON. The attached one's answer is read as it comes; the one in the background is looked at
four times a second, and read when it has ended.
"""

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec

from app.journal.opening import upgrade
from app.journal.place import ServerPlace
from bench.phalanx_server import PhalanxServer, lags_of, serving
from bench.processes import MIB, MeasurementFailed, cost_of, folder_bytes, peak_bytes
from tests.postgres import MISSING, Cluster, binaries

PROMPT = "Name the capital of a country, and say when it became that. "
LINES_A_PIECE = 500
LOOK_S = 0.25
LOOKS = 20  # of each kind
QUICK_RANKS = '{"step_ms": 0, "max_num_seqs": 256}'  # they answer at once
_encode = msgspec.json.Encoder().encode


class Round(msgspec.Struct, kw_only=True):
    """One batch, one way."""

    way: str
    intake_s: float  # until its id, or its stream, was there
    seconds: float  # from its first byte to its end
    items_per_s: float  # from the end of intake to its end, in the background; over all of it, attached
    gateway_cpu_us: float  # an item


def lines(items: int, max_tokens: int, options: dict[str, Any], words: int) -> Iterator[bytes]:
    """The body."""
    params = {"max_tokens": max_tokens, "ignore_eos": True, "temperature": 0}
    yield _encode({"object": "batch_generation.options", "sampling_params": params, **options}) + b"\n"
    prompt = (PROMPT * (1 + words // 12)).split()[:words]
    for start in range(0, items, LINES_A_PIECE):
        rows = range(start, min(items, start + LINES_A_PIECE))
        yield b"".join(
            _encode({"custom_id": f"row-{row:08}", "prompt": f"{row} {' '.join(prompt)}"}) + b"\n" for row in rows
        )


def in_background(server: PhalanxServer, given: argparse.Namespace) -> tuple[Round, str]:
    """The round, and the batch's id. Raises MeasurementFailed for an item that is not `ok`."""
    client, before, began = server.client, cost_of(server.pids[0]).cpu_s, time.monotonic()
    body = lines(given.items, given.tokens, {"background": True}, given.words)
    answer = client.post("/v1/batch_generate", content=body, headers={"Content-Type": "application/x-ndjson"})
    if answer.status_code != httpx.codes.ACCEPTED:
        raise MeasurementFailed(f"{answer.status_code} {answer.text[:500]}")
    batch_id, taken = answer.json()["id"], time.monotonic()
    while (batch := client.get(f"/v1/batch_generate/{batch_id}").json())["ended_at"] is None:
        time.sleep(LOOK_S)
    ended = time.monotonic()
    if batch["request_counts"]["ok"] != given.items:
        raise MeasurementFailed(f"{batch}")
    cpu_us = (cost_of(server.pids[0]).cpu_s - before) / given.items * 1e6
    rate = given.items / (ended - taken)
    return Round(
        way="background", intake_s=taken - began, seconds=ended - began, items_per_s=rate, gateway_cpu_us=cpu_us
    ), batch_id


def attached(server: PhalanxServer, given: argparse.Namespace) -> Round:
    """Raises MeasurementFailed for an item that is not `ok`."""
    before, began = cost_of(server.pids[0]).cpu_s, time.monotonic()
    count, body = 0, lines(given.items, given.tokens, {}, given.words)
    headers = {"Content-Type": "application/x-ndjson", "Accept": "application/x-ndjson"}
    with server.client.stream("POST", "/v1/batch_generate", content=body, headers=headers) as answer:
        taken = time.monotonic()
        for line in answer.iter_lines():
            count += '"status":"ok"' in line
    seconds = time.monotonic() - began
    if count != given.items:
        raise MeasurementFailed(f"{count} of {given.items} items were answered")
    cpu_us = (cost_of(server.pids[0]).cpu_s - before) / given.items * 1e6
    return Round(
        way="attached", intake_s=taken - began, seconds=seconds, items_per_s=count / seconds, gateway_cpu_us=cpu_us
    )


def read_all(server: PhalanxServer, batch_id: str, items: int) -> float:
    """Results a second."""
    began, seen = time.monotonic(), bytearray(items)
    find = msgspec.json.Decoder(Seen).decode
    with server.client.stream(
        "GET", f"/v1/batch_generate/{batch_id}/results", headers={"Accept-Encoding": "identity"}
    ) as answer:
        for line in answer.iter_lines():
            found = find(line)
            if found.object == "batch_generation.result":
                seen[found.index] += 1
    if set(seen) != {1}:
        raise MeasurementFailed(f"{seen.count(0)} of {items} results are missing")
    return items / (time.monotonic() - began)


class Seen(msgspec.Struct):
    """What is read of a line."""

    object: str
    index: int = -1


def looks(server: PhalanxServer, batch_id: str, items: int) -> dict[str, float]:
    """Milliseconds, the median of some each."""
    paths = {
        "list": "/v1/batch_generate?limit=20",
        "get": f"/v1/batch_generate/{batch_id}",
        "100 results from the middle": f"/v1/batch_generate/{batch_id}/results?after={items // 2}&limit=100",
    }
    found = {}
    for name, path in paths.items():
        times = []
        for _ in range(LOOKS):
            began = time.monotonic()
            server.client.get(path).raise_for_status()
            times.append(time.monotonic() - began)
        found[name] = round(statistics.median(times) * 1000, 2)
    return found


def p99_ms(lags: Counter[float]) -> float:
    """The upper edge of the bucket that it is in."""
    return min(edge for edge, count in lags.items() if count >= 0.99 * max(lags.values())) * 1000


def measure(given: argparse.Namespace, flags: list[str], folder: Path) -> None:
    """Prints what it finds."""
    with serving([*given.flags.split(), *flags], folder) as server:
        pid, journal = server.pids[0], folder / f"journal.{server.url.rpartition(':')[2]}"
        rounds: list[Round] = []
        last = ""
        for number in range(given.rounds):
            ways = ["background", "attached"] if given.compare else ["background"]
            for way in ways if number % 2 == 0 else reversed(ways):
                before = lags_of(server.client.get("/metrics").text)
                done = attached(server, given) if way == "attached" else None
                if done is None:
                    done, last = in_background(server, given)
                rounds.append(done)
                lag_ms = p99_ms(lags_of(server.client.get("/metrics").text) - before)
                print(
                    f"round {number} {done.way}: taken in {done.intake_s:.2f} s, ended after {done.seconds:.2f} s, "
                    f"{done.items_per_s:.0f} items/s, gateway {done.gateway_cpu_us:.0f} us an item, "
                    f"VmHWM {peak_bytes(pid) / MIB:.0f} MiB, lag p99 <= {lag_ms:g} ms",
                    flush=True,
                )
        if given.store == "sqlite":
            print(f"journal: {folder_bytes(journal) / MIB:.0f} MiB for {given.rounds} batches")
        print(f"looks, in ms: {looks(server, last, given.items)}")
        print(f"read: {read_all(server, last, given.items):.0f} results/s, VmHWM {peak_bytes(pid) / MIB:.0f} MiB")
        if given.compare:
            ratio = _median(rounds, "attached") / _median(rounds, "background")
            print(f"attached / background, in seconds from first byte to end: {ratio:.3f}")


def _median(rounds: list[Round], way: str) -> float:
    return statistics.median(done.seconds for done in rounds if done.way == way)


def main(arguments: list[str], prog: str) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--words", type=int, default=24, help="of a prompt")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--compare", action="store_true", help="with the same items attached, in turns")
    parser.add_argument("--store", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="on the disk to measure")
    parser.add_argument(
        "--flags",
        default=f"--engine simulated --dp-size 2 --engine-args {QUICK_RANKS.replace(' ', '')}",
        help="of `phalanx serve`",
    )
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="batches.") as folder:
        if given.store == "sqlite":
            measure(given, [], Path(folder))
            return 0
        if binaries() is None:
            print(MISSING)
            return 1
        cluster = Cluster()
        try:
            upgrade(ServerPlace(cluster.url()))
            measure(given, ["--journal-url", cluster.url()], Path(folder))
        finally:
            cluster.remove()
    return 0
