"""Throughput of (a) the engines called directly, (b) `vllm serve` and (c) Phalanx, on the same prompts, in one go.

All of them are started first, one after another, and stay up: the runs alternate, and each round begins with another
side. A side that waits for work costs next to no CPU once its workers have gone to sleep, a second after their last
step; the pause between runs is for that, and the figure is measured and printed. Every round has prompts of its own,
the same for every side. A client of (b) that takes three times as long as another one in the warm-up runs once. All
sides keep vLLM's statistics, log to files and log no requests.
"""

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec

from bench.direct_engines import DirectEngines
from bench.engine_settings import EngineSettings, add_settings_flags, merge, settings_of
from bench.measured import Row, Run, Side, ratio, table
from bench.phalanx_server import PhalanxServer, Stage
from bench.processes import MeasurementFailed, tree_cpu_s
from bench.vllm_server import CONNECTIONS, VllmServer, clients_of
from bench.workload import Workload, WorkloadShape

PAUSE_S = 1.5  # vLLM's workers spin for a second after a step
IDLE_WINDOW_S = 3.0
RESTARTED = 999  # the number of the workload that warms a side up once more
VARIANT = 1000  # above every number of rounds
MUCH_SLOWER = 3.0


class Options(msgspec.Struct, kw_only=True):
    """What is compared."""

    settings: EngineSettings
    shape: WorkloadShape
    runs: int
    sides: str = "abc"
    server_arguments: dict[str, Any] = {}  # of (b) alone, over the shared ones; null removes one. Any: vLLM checks them
    server_flags: list[str] = []
    clients: str = ""  # of (b): PROMPTSxCONNECTIONS, comma-separated
    deadline: float | None = None  # time.monotonic(); no run begins after it


class Report(msgspec.Struct, kw_only=True):
    """What came out."""

    settings: EngineSettings
    shape: WorkloadShape
    rows: list[Row] = []
    start_s: dict[str, float] = {}  # by side
    stages: list[Stage] = []  # of Phalanx's start
    c_over_a: float | None = None
    c_over_b: float | None = None


class Contestant(msgspec.Struct):
    """A row, and what fills it."""

    row: Row
    side: Side
    run: Callable[[Workload], Run]
    variant: int = 0  # a second way to use the same side gets other prompts: the side has seen the first one's
    warm_up: Run | None = None

    def is_hopeless(self, others: list["Contestant"]) -> bool:
        """Whether another way to use the same side was so much faster at the warm-up that one run says enough."""
        rates = [other.warm_up.prompts_per_s for other in others if other.side is self.side and other.warm_up]
        return self.warm_up is not None and self.warm_up.prompts_per_s * MUCH_SLOWER < max(rates)

    def workload(self, shape: WorkloadShape, number: int) -> Workload:
        """Its prompts for a round; round 0 is the warm-up."""
        return shape.make(number + self.variant * VARIANT)


def measure(options: Options, folder: Path, on_round: Callable[[Report], None] = lambda _: None) -> Report:
    """Starts the sides, warms them up, and runs the rounds. A side that fails is left out from then on."""
    folder.mkdir(parents=True, exist_ok=True)
    report = Report(settings=options.settings, shape=options.shape)
    contestants = _contestants(options, folder)
    report.rows = [contestant.row for contestant in contestants]
    sides = {contestant.row.letter: contestant.side for contestant in contestants}
    try:
        for letter, side in sides.items():
            _start(letter, side, contestants, report)
        for contestant in contestants:
            _run(contestant, options.shape, 0)
        _measure_idle(contestants)
        for number in range(1, options.runs + 1):
            if options.deadline is not None and time.monotonic() > options.deadline:
                print(f"no time is left for round {number}", flush=True)
                break
            _round(number, contestants, options.shape)
            report.c_over_a, report.c_over_b = (ratio(report.rows, "c", under) for under in "ab")
            on_round(report)
    finally:
        for side in sides.values():
            side.stop()
    return report


def _contestants(options: Options, folder: Path) -> list[Contestant]:
    found: list[Contestant] = []
    for letter in options.sides:
        if letter == "a":
            engines = DirectEngines(options.settings, folder)
            found.append(Contestant(Row(name=engines.name, letter=letter), engines, engines.run))
        elif letter == "b":
            found += _server_contestants(options, folder)
        else:
            phalanx = PhalanxServer.on(options.settings, folder)
            found.append(Contestant(Row(name=phalanx.name, letter=letter), phalanx, phalanx.run))
    return found


def _server_contestants(options: Options, folder: Path) -> list[Contestant]:
    settings = msgspec.structs.replace(
        options.settings, arguments=merge(options.settings.arguments, options.server_arguments)
    )
    server = VllmServer(settings, folder, options.server_flags)
    sample = options.shape.make(0)
    clients = clients_of(server, options.clients or CONNECTIONS[settings.device])
    suiting = [client for client in clients if client.suits(sample)]
    return [
        Contestant(Row(name=client.name, letter="b"), server, client.run, variant)
        for variant, client in enumerate(suiting)
    ]


def _start(letter: str, side: Side, contestants: list[Contestant], report: Report) -> None:
    began = time.monotonic()
    try:
        side.start()
    except MeasurementFailed as error:
        print(f"({letter}) {side.name} does not start: {error}", flush=True)
        side.stop()
        for contestant in contestants:
            if contestant.side is side:
                contestant.row.failure = str(error)
        return
    report.start_s[letter] = round(time.monotonic() - began, 1)
    if isinstance(side, PhalanxServer):
        report.stages = side.stages
    print(f"({letter}) {side.name} is up after {report.start_s[letter]:.1f} s", flush=True)


def _round(number: int, contestants: list[Contestant], shape: WorkloadShape) -> None:
    first = number % len(contestants)
    for contestant in contestants[first:] + contestants[:first]:
        if number == 1 or not contestant.is_hopeless(contestants):
            _run(contestant, shape, number)
    rates = (f"{c.row.letter} {c.row.runs[-1].prompts_per_s:.1f}" for c in contestants if len(c.row.runs) == number)
    print(f"round {number}, prompts/s: {', '.join(rates)}", flush=True)


def _run(contestant: Contestant, shape: WorkloadShape, number: int) -> None:
    """One run, kept unless it is the warm-up. When it fails, the side is started again, and it has one more chance."""
    row = contestant.row
    if row.failure is not None:
        return
    try:
        run = _try(contestant, shape, number)
    except (MeasurementFailed, httpx.HTTPError) as error:
        row.mishaps.append(f"{type(error).__name__}: {error}")
        print(f"({row.letter}) {row.name} failed and is started again: {row.mishaps[-1]}", flush=True)
        try:
            contestant.side.stop()
            contestant.side.start()
            _try(contestant, shape, RESTARTED)
            run = _try(contestant, shape, number)
        except (MeasurementFailed, httpx.HTTPError) as second:
            row.failure = f"{type(second).__name__}: {second}"
            print(f"({row.letter}) {row.name} is left out: {row.failure}", flush=True)
            return
    if number:
        row.runs.append(run)
    else:
        contestant.warm_up = run


def _try(contestant: Contestant, shape: WorkloadShape, number: int) -> Run:
    work = contestant.workload(shape, number)
    time.sleep(PAUSE_S)
    return contestant.run(work)


def _measure_idle(contestants: list[Contestant]) -> None:
    """How many cores each side takes while nobody asks it anything."""
    time.sleep(PAUSE_S)
    before = [_cpu_s(contestant.side) for contestant in contestants]
    time.sleep(IDLE_WINDOW_S)
    for contestant, earlier in zip(contestants, before, strict=True):
        if contestant.row.failure is None:
            contestant.row.idle_cores = (_cpu_s(contestant.side) - earlier) / IDLE_WINDOW_S
    shown = {
        c.row.letter: f"({c.row.letter}) {c.row.idle_cores:.3f}" for c in contestants if c.row.idle_cores is not None
    }
    print(f"idle, in cores: {', '.join(shown.values())}", flush=True)


def _cpu_s(side: Side) -> float:
    return sum(tree_cpu_s(pid) for pid in side.pids)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="phalanx-tiny-random", help="folder, hub name or built-in model (%(default)s)")
    add("--prompts", type=int, default=2000)
    add("--tokens", type=int, default=8, help="of each answer; the mean where lengths are lognormal (%(default)s)")
    add("--prompt-tokens", type=int, help="prompts of so many token ids; default: short texts")
    add("--lengths", choices=["fixed", "lognormal"], default="fixed", help="of the answers")
    add("--runs", type=int, default=5)
    add_settings_flags(parser, dp_size=2, for_whom="on all sides")
    add("--server-engine-args", type=json.loads, default={}, metavar="JSON", help="over those, for (b); null removes")
    add("--server-flags", default="", help="more flags of `vllm serve`, such as '--api-server-count 1'")
    add("--server-clients", default="", metavar="LIST", help=f"PROMPTSxCONNECTIONS of a client of (b): {CONNECTIONS}")
    add("--only", default="a,b,c", help="sides (%(default)s)")
    add("--json", type=Path, metavar="FILE", help="where to write all runs")
    add("--keep-logs", type=Path, metavar="DIR", help="where logs go; default: a folder that is removed")
    return parser


def main(arguments: list[str], prog: str) -> int:
    """1 when a side failed."""
    given = _parser(prog).parse_args(arguments)
    with contextlib.ExitStack() as stack:
        folder = given.keep_logs or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        try:
            settings = settings_of(given)
        except MeasurementFailed as error:
            print(error)
            return 1
        options = Options(
            settings=settings,
            shape=WorkloadShape(given.prompts, given.tokens, given.prompt_tokens, given.lengths),
            runs=given.runs,
            sides=given.only.replace(",", ""),
            server_arguments=given.server_engine_args,
            server_flags=given.server_flags.split(),
            clients=given.server_clients,
        )
        report = measure(options, folder)
    print(f"\n{table(report.rows)}")
    if given.json:
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
    return int(any(row.failure for row in report.rows))
