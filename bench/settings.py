"""Engine settings against each other, each served by Phalanx on the same GPUs, in one go.

All sides are started at once, with an equal part of the memory, and stay up: the rounds alternate between them and
between the workloads, and each round has prompts of its own, the same for every side. A side that waits costs its
GPUs nothing but memory.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from bench.engine_settings import DEFAULTS, EngineSettings, detect_device, inspect, merge
from bench.gpu_moe import GPU_MEMORY, SHAPE, Host, build_model, describe_host
from bench.measured import Run
from bench.phalanx_server import PhalanxServer
from bench.processes import MeasurementFailed
from bench.workload import WorkloadShape

PAUSE_S = 1.5


class Figure(msgspec.Struct, kw_only=True):
    """All runs of one side on one workload."""

    side: str
    lengths: str
    runs: list[Run] = []

    @property
    def tokens_per_s(self) -> list[float]:
        """Of each run."""
        return [run.output_tokens / run.seconds for run in self.runs]


class SettingsReport(msgspec.Struct, kw_only=True):
    """Everything, as it is written."""

    command: str
    host: Host
    arguments: dict[str, Any]  # of all sides; Any: engine arguments
    sides: dict[str, dict[str, Any]]  # over those
    flags: list[str]
    side_flags: dict[str, str]  # of some sides, over those
    start_s: dict[str, float] = {}
    figures: list[Figure] = []


def _servers(given: argparse.Namespace, model: str, arguments: dict[str, Any]) -> dict[str, PhalanxServer]:
    servers = {}
    for name, over in given.sides.items():
        folder = given.out / "logs" / name
        folder.mkdir(parents=True, exist_ok=True)
        settings = EngineSettings(
            model=model,
            is_moe=True,
            dp_size=given.dp_size,
            tp_size=given.tp_size,
            device=given.device,
            arguments=merge(arguments, over),
        )
        flags = f"{given.flags} {given.side_flags.get(name, '')}"
        servers[name] = PhalanxServer.on(settings, folder, flags.split())
    return servers


def _rounds(
    given: argparse.Namespace, servers: dict[str, PhalanxServer], figures: dict[tuple[str, str], Figure]
) -> Iterator[None]:
    """One after another, each beginning with another side; round 0 warms up and is not kept."""
    deadline = time.monotonic() + given.time_limit_s
    names = list(servers)
    for number in range(given.runs + 1):
        for lengths in given.lengths.split(","):
            shape = WorkloadShape(given.prompts, given.tokens, given.prompt_tokens, lengths, given.groups)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                if time.monotonic() > deadline:
                    print("no time is left", flush=True)
                    return
                time.sleep(PAUSE_S)
                run = servers[name].run(shape.make(number))
                if number:
                    figures[name, lengths].runs.append(run)
                print(f"round {number} {lengths} {name}: {run.output_tokens / run.seconds:.0f} tokens/s", flush=True)
        yield


def _write(report: SettingsReport, folder: Path) -> None:
    (folder / "settings.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
    lines = [
        f"`{report.command}`\n",
        *(f"- {gpu}" for gpu in report.host.gpus),
        f"- every side: `{json.dumps(report.arguments)}` {' '.join(report.flags)}",
        *(
            f"- {name}: `{' '.join(filter(None, (json.dumps(over), report.side_flags.get(name))))}`, "
            f"ready after {report.start_s[name]:.0f} s"
            for name, over in report.sides.items()
        ),
        "",
        "| side | lengths | output tokens/s, median | all | against the first side |",
        "|---|---|---|---|---|",
    ]
    first = next(iter(report.sides))
    bases = {figure.lengths: figure for figure in report.figures if figure.side == first}
    for figure in report.figures:
        if figure.runs and bases[figure.lengths].runs:
            median = statistics.median(figure.tokens_per_s)
            ratio = median / statistics.median(bases[figure.lengths].tokens_per_s)
            every = ", ".join(f"{rate:.0f}" for rate in figure.tokens_per_s)
            lines.append(f"| {figure.side} | {figure.lengths} | {median:.0f} | {every} | {ratio:.2f} |")
    (folder / "settings.md").write_text("\n".join(lines) + "\n")


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="for the figures and the logs")
    add("--sides", type=json.loads, required=True, metavar="JSON", help="name: engine arguments over the defaults")
    add("--flags", default="", help="more flags of every `phalanx serve`, such as --no-expert-parallel")
    add("--side-flags", type=json.loads, default={}, metavar="JSON", help="name: more flags of that side's")
    add("--model", help=f"folder, hub name or built-in model; default: {SHAPE}, built with made-up weights")
    add("--model-dir", type=Path, default=Path("/tmp/powermoe-3b"), help="where the model is built (%(default)s)")  # noqa: S108
    add("--prompts", type=int, default=4000)
    add("--prompt-tokens", type=int, default=100)
    add("--tokens", type=int, default=128)
    add("--lengths", default="fixed,lognormal", help="and shared: long beginnings in common (%(default)s)")
    add("--groups", type=int, default=64, help="of prompts that begin alike, where they are shared (%(default)s)")
    add("--runs", type=int, default=3)
    add("--dp-size", type=int, default=2)
    add("--tp-size", type=int, default=1)
    add("--device", choices=["cpu", "cuda"], default=detect_device())
    add("--time-limit-s", type=float, default=480.0, help="no run begins so long after the start (%(default)s)")
    return parser


def main(arguments: list[str], prog: str) -> int:
    """1 when a side does not start or a run fails."""
    given = _parser(prog).parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    shared = DEFAULTS[given.device] | ({} if given.model else {"load_format": "dummy"})
    if given.device == "cuda":
        shared["gpu_memory_utilization"] = round(GPU_MEMORY / len(given.sides), 2)
    try:
        servers = _servers(given, inspect(given.model).model if given.model else build_model(given.model_dir), shared)
    except MeasurementFailed as error:
        print(error)
        return 1
    report = SettingsReport(
        command=f"{prog} {' '.join(arguments)}",
        host=describe_host(),
        arguments=shared,
        sides=given.sides,
        flags=given.flags.split(),
        side_flags=given.side_flags,
    )
    figures = {
        (name, lengths): Figure(side=name, lengths=lengths) for lengths in given.lengths.split(",") for name in servers
    }
    report.figures = list(figures.values())
    try:
        with ThreadPoolExecutor(len(servers)) as starters:
            list(starters.map(PhalanxServer.start, servers.values()))
        report.start_s = {name: server.start_s for name, server in servers.items()}
        for _ in _rounds(given, servers, figures):
            _write(report, given.out)
        _write(report, given.out)
    except MeasurementFailed as error:
        print(error)
        return 1
    finally:
        for server in servers.values():
            server.stop()
    print(f"\n# {SHAPE}\n\n{(given.out / 'settings.md').read_text()}")
    return 0
