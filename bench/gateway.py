"""What an item costs the gateway: simulated ranks, which answer at once, under many httpx clients.

Each round is 10,000 items in one request, in 100 requests of 100 items, and in 2,000 requests of 5 items from 200
clients at once, answered at once and as streams. Nothing may be wrong with any answer, and afterwards the gateway must
be as it was: memory, open files, threads, tasks.
"""

import argparse
import re
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec

from bench.load_clients import Load, LoadClients, LoadReport, add_load_flags, loads_of
from bench.phalanx_server import PhalanxServer, serving
from bench.processes import Cost, MeasurementFailed, cost_of, wait_until

SETTLE_S = 5.0  # for the gateway to notice that clients are gone
WARM_UP_ROUND = 0
LOOP_GAUGES = re.compile(r"^phalanx_(\S*(?:tasks|loop_lag_seconds_(?:sum|count))) (\S+)$", re.MULTILINE)


class Shot(msgspec.Struct, kw_only=True):
    """One load of one round."""

    round: int
    load: str
    items_per_s: float
    cpu_us: float  # of the gateway, per item
    p50_ms: float
    p99_ms: float
    rss_mib: float
    open_files: int
    threads: int
    loop: dict[str, float]  # tasks and lag of the event loop, where /metrics tells them
    errors: list[str]


class Bounds(msgspec.Struct, kw_only=True):
    """What must not be exceeded. CPU is the median over the rounds of each load; growth begins after the warm-up."""

    max_cpu_us: float
    max_rss_growth_mb: float
    max_file_growth: int


def measure(server: PhalanxServer, loads: list[Load], rounds: int, processes: int) -> list[Shot]:
    """All rounds, the warm-up as round 0."""
    shots: list[Shot] = []
    texts: dict[int, int] = {}
    with LoadClients(server.url, processes) as clients:
        for number in range(rounds + 1):
            for load in loads:
                shot, report = fire(server, clients, load, number)
                shot.errors += _differences(texts, report.texts)
                texts |= report.texts
                shots.append(shot)
                show(shot)
    return shots


def fire(server: PhalanxServer, clients: LoadClients, load: Load, number: int) -> tuple[Shot, LoadReport]:
    """One load, and what it cost the gateway."""
    pid = server.pids[0]
    before = cost_of(pid)
    report = clients.run(load)
    after = _settled(pid, before)
    latencies = sorted(report.latencies_s) or [0.0]
    shot = Shot(
        round=number,
        load=load.name,
        items_per_s=load.items / report.seconds,
        cpu_us=(after.cpu_s - before.cpu_s) / load.items * 1e6,
        p50_ms=statistics.median(latencies) * 1e3,
        p99_ms=latencies[int(len(latencies) * 0.99)] * 1e3,
        rss_mib=after.rss_mib,
        open_files=after.open_files,
        threads=after.threads,
        loop=_loop_gauges(server.client),
        errors=report.errors,
    )
    return shot, report


def _settled(pid: int, before: Cost) -> Cost:
    """The gateway once it has closed the connections of clients that are gone, if it does."""
    wait_until(lambda: cost_of(pid).open_files <= before.open_files, SETTLE_S)
    return cost_of(pid)


def _loop_gauges(client: httpx.Client) -> dict[str, float]:
    return {name: float(value) for name, value in LOOP_GAUGES.findall(client.get("/metrics").text)}


def _differences(texts: dict[int, int], others: dict[int, int]) -> list[str]:
    """Equal prompts have equal answers, whichever request they came in: else an answer went astray."""
    astray = [item for item in texts.keys() & others.keys() if texts[item] != others[item]]
    return [f"{len(astray)} items have another text than before, such as item {astray[0]}"] if astray else []


def show(shot: Shot) -> None:
    """A line, and one for each error."""
    loop = "".join(f", {name} {value:g}" for name, value in shot.loop.items())
    print(
        f"round {shot.round:2} {shot.load:>18}: {shot.items_per_s:7.0f} items/s, {shot.cpu_us:6.1f} us an item, "
        f"p50 {shot.p50_ms:7.1f} ms, p99 {shot.p99_ms:7.1f} ms, {shot.rss_mib:6.1f} MiB, "
        f"{shot.open_files} files, {shot.threads} threads{loop}",
        flush=True,
    )
    for error in shot.errors:
        print(f"  ERROR {error}", flush=True)


def judge(shots: list[Shot], bounds: Bounds) -> list[str]:
    """Which bounds are exceeded, in sentences."""
    found = [f"round {shot.round}, {shot.load}: {error}" for shot in shots for error in shot.errors]
    warm, last = [shot for shot in shots if shot.round == WARM_UP_ROUND][-1], shots[-1]
    for load in dict.fromkeys(shot.load for shot in shots):
        cpu_us = statistics.median(shot.cpu_us for shot in shots if shot.load == load and shot.round != WARM_UP_ROUND)
        print(f"{load}: median {cpu_us:.1f} us of gateway CPU an item")
        if cpu_us > bounds.max_cpu_us:
            found.append(f"{load}: {cpu_us:.1f} us an item, above {bounds.max_cpu_us:g}")
    growth_mib, files = last.rss_mib - warm.rss_mib, last.open_files - warm.open_files
    print(f"memory grew by {growth_mib:.1f} MiB and open files by {files} since the warm-up")
    if growth_mib > bounds.max_rss_growth_mb:
        found.append(f"memory grew by {growth_mib:.1f} MiB, above {bounds.max_rss_growth_mb:g}")
    if files > bounds.max_file_growth:
        found.append(f"{files} more files are open, above {bounds.max_file_growth}")
    return found


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_load_flags(parser, rounds=10)
    add = parser.add_argument
    add("--max-cpu-us", type=float, default=150.0)
    add("--max-rss-growth-mb", type=float, default=32.0)
    add("--max-file-growth", type=int, default=0)
    add("--json", type=Path, metavar="FILE")
    return parser


def main(arguments: list[str], prog: str) -> int:
    """1 when an answer was wrong or a bound is exceeded."""
    given = _parser(prog).parse_args(arguments)
    loads = [replace(load, is_streamed=streamed) for load in loads_of(given) for streamed in (False, True)]
    bounds = Bounds(
        max_cpu_us=given.max_cpu_us, max_rss_growth_mb=given.max_rss_growth_mb, max_file_growth=given.max_file_growth
    )
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            with serving(["--engine", "simulated", "--dp-size", "2"], Path(folder)) as server:
                shots = measure(server, loads, given.rounds, given.processes)
        except MeasurementFailed as error:
            print(error)
            return 1
    problems = judge(shots, bounds)
    for problem in problems:
        print(f"FAILED {problem}")
    if given.json:
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode(shots), indent=1))
    return int(bool(problems))
