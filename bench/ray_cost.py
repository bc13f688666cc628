"""What Ray costs a gateway that uses it, and what becomes of the work when ranks are added and taken away.

The same simulated ranks, started by the gateway and placed by Ray (a cluster of the gateway's own, on this machine):
start, memory, threads, CPU and event-loop lag, idle and under load, in turns. Then two ranks become four and one in the
midst of a batch.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import msgspec
import psutil

from bench.phalanx_server import PhalanxServer, lags_of, serving
from bench.processes import MIB, MeasurementFailed, cost_of, wait_until

BY_RAY = ["--launcher", "ray", "--ray-address", "local", "--ray-resources", '{"CPU": 0.1}']
SIDES = {"without Ray": [], "with Ray": BY_RAY}
DRIVER = "app.ranks.hosts.ray.driver"
LATE_S = 0.01
BATCH = 1000
PACE = {"step_ms": 20, "max_num_seqs": 16}  # of a rank: 50 items of 16 tokens a second
SCALED = {"max_tokens": 16, "ignore_eos": True}
PHASES = (2, 4, 1)  # ranks, one after another
READY_TIMEOUT_S = 60.0


class Cost(msgspec.Struct, kw_only=True):
    """Of one start. Memory in MiB, CPU as a share of a core, looks of the event loop at its own lag."""

    side: str
    ready_s: float
    gateway_mib: float
    gateway_own_mib: float  # that no other process has
    gateway_threads: int
    gateway_idle_cpu: float
    driver_mib: float | None = None
    driver_own_mib: float | None = None
    driver_threads: int | None = None
    driver_idle_cpu: float | None = None
    idle_late: int  # looks that were later than LATE_S
    idle_looks: int
    loaded_late: int
    loaded_looks: int
    items_per_s: float


class Phase(msgspec.Struct, kw_only=True):
    """Of a batch under way, with so many ranks."""

    ranks: int
    changed_after_s: float  # from the request until the ranks were these
    items_per_s: float


def own_mib(pid: int) -> float:
    """The memory of a process that no other has."""
    return float(psutil.Process(pid).memory_full_info().uss / MIB)


def _driver_of(gateway: int) -> int | None:
    below = psutil.Process(gateway).children(recursive=True)
    return next((process.pid for process in below if DRIVER in process.cmdline()), None)


def _late(server: PhalanxServer) -> tuple[int, int]:
    """Looks so far that were late, and all."""
    lags = lags_of(server.client.get("/metrics").text)
    return int(lags[float("inf")] - lags[LATE_S]), int(lags[float("inf")])


def _post(server: PhalanxServer, count: int, sampling: dict[str, object]) -> dict[str, object]:
    body = {"prompts": ["Hello, my name is"] * count, "sampling_params": sampling}
    answer = server.client.post("/v1/batch_generate", json=body)
    if answer.status_code != 200 or answer.json()["request_counts"]["ok"] != count:
        raise MeasurementFailed(f"{answer.status_code} {answer.text[:500]}")
    found: dict[str, object] = answer.json()
    return found


def cost(side: str, folder: Path, seconds: float) -> Cost:
    """Of one start."""
    with serving(["--engine", "simulated", "--dp-size", "2", *SIDES[side]], folder) as server:
        gateway = server.pids[0]
        driver = _driver_of(gateway)
        _post(server, BATCH, {"max_tokens": 4})  # what is made with the first
        time.sleep(seconds / 4)
        pids = [gateway] if driver is None else [gateway, driver]
        before, late = [cost_of(pid) for pid in pids], _late(server)
        time.sleep(seconds)
        after, idle = [cost_of(pid) for pid in pids], _late(server)
        idle_cpu = [(late.cpu_s - early.cpu_s) / seconds for early, late in zip(before, after, strict=True)]
        began, items = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            _post(server, BATCH, {"max_tokens": 4})
            items += BATCH
        took, loaded = time.monotonic() - began, _late(server)
        found = Cost(
            side=side,
            ready_s=server.start_s,
            gateway_mib=after[0].rss_mib,
            gateway_own_mib=own_mib(gateway),
            gateway_threads=after[0].threads,
            gateway_idle_cpu=idle_cpu[0],
            idle_late=idle[0] - late[0],
            idle_looks=idle[1] - late[1],
            loaded_late=loaded[0] - idle[0],
            loaded_looks=loaded[1] - idle[1],
            items_per_s=items / took,
        )
        if driver is not None:
            found.driver_mib, found.driver_own_mib = after[1].rss_mib, own_mib(driver)
            found.driver_threads, found.driver_idle_cpu = after[1].threads, idle_cpu[1]
        return found


def scale(folder: Path, seconds: float) -> list[Phase]:
    """Of ranks placed by Ray. All items must be answered, each at its first attempt. Raises MeasurementFailed."""
    items = int(50 * sum(PHASES) * seconds) + 1000
    flags = ["--engine", "simulated", "--engine-args", json.dumps(PACE), "--dp-size", str(PHASES[0]), *BY_RAY]
    with serving(flags, folder) as server:
        answers: list[dict[str, object]] = []
        client = threading.Thread(target=lambda: answers.append(_post(server, items, SCALED)))
        client.start()
        phases = []
        for number, ranks in enumerate(PHASES):
            began = time.monotonic()
            if number and server.client.post("/v1/ranks/scale", json={"dp_size": ranks}).status_code != 202:
                raise MeasurementFailed(f"scaling to {ranks} was refused")
            if not wait_until(lambda ranks=ranks: _busy(server) == ranks, READY_TIMEOUT_S):  # type: ignore[misc]
                raise MeasurementFailed(f"there were not {ranks} ranks that work after {READY_TIMEOUT_S:g} s")
            changed_s, before, since = time.monotonic() - began, _left(server), time.monotonic()
            time.sleep(seconds)
            rate = (before - _left(server)) / (time.monotonic() - since)
            phases.append(Phase(ranks=ranks, changed_after_s=changed_s, items_per_s=rate))
        client.join()
        if not answers:
            raise MeasurementFailed("the batch was not answered")
        attempts = Counter(result["attempts"] for result in answers[0]["results"])  # type: ignore[attr-defined]
        if attempts != {1: items}:
            raise MeasurementFailed(f"attempts of the {items} items: {dict(attempts)}")
        print(f"all {items} items were answered at their first attempt", flush=True)
    return phases


def _busy(server: PhalanxServer) -> int | None:
    """How many ranks work, if all do."""
    ranks = server.client.get("/v1/ranks").json()["data"]
    return len(ranks) if all(rank["held"] for rank in ranks) else None


def _left(server: PhalanxServer) -> float:
    """Items without a result."""
    lines = [line.split() for line in server.client.get("/metrics").text.splitlines()]
    return sum(float(line[1]) for line in lines if line[0] in ("phalanx_backlog_items", "phalanx_running_items"))


def _say(costs: list[Cost]) -> None:
    for side in SIDES:
        print(f"\n{side}: medians of {sum(one.side == side for one in costs)} starts")
        for name in Cost.__struct_fields__[1:]:
            values = [getattr(one, name) for one in costs if one.side == side]
            if None not in values:
                print(f"  {name:18} {statistics.median(values):10.3f}   {min(values):.3f} to {max(values):.3f}")


def main(arguments: list[str], prog: str) -> int:
    """1 when an item was lost or done twice, or something did not start."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5, help="starts of each side (%(default)s)")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each part (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args(arguments)
    costs: list[Cost] = []
    try:
        for number in range(given.runs):
            for side in (list(SIDES), list(SIDES)[::-1])[number % 2]:
                with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                    costs.append(cost(side, Path(folder), given.seconds))
                    print(f"run {number} {side}: ready after {costs[-1].ready_s:.2f} s", flush=True)
        _say(costs)
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            phases = scale(Path(folder), given.seconds)
    except MeasurementFailed as error:
        print(error, file=sys.stderr)
        return 1
    for phase in phases:
        print(f"{phase.ranks} ranks, {phase.changed_after_s:.2f} s after the request: {phase.items_per_s:.1f} items/s")
    if given.json:
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode({"costs": costs, "scale": phases}), indent=1))
    return 0
