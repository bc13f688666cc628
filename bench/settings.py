"""Engine settings against each other on the same GPUs, in one go: served by Phalanx (--sides), by `vllm serve` with its
best client (--serve), or by the engines called directly (--direct).

All sides stay up, with an equal part of the memory unless they say otherwise: the rounds alternate between them and
between the workloads, and each round has prompts of its own, the same for every side. A side that waits costs its GPUs
nothing but memory. They are started one after another, for an engine measures how much memory is left for its KV cache;
if all are told (kv_cache_memory_bytes), they start at once.
"""

import argparse
import json
import shlex
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import msgspec

from bench.direct_engines import DirectEngines
from bench.engine_settings import DEFAULTS, EngineSettings, Model, detect_device, inspect, merge
from bench.floor import DecoderShape, bandwidth_of, floor_tokens_per_s
from bench.gpu_moe import GPU_MEMORY, SHAPE, Host, build_model, describe_host
from bench.measured import Run, Side
from bench.phalanx_server import PhalanxServer
from bench.processes import MeasurementFailed
from bench.vllm_server import CONNECTIONS, VllmServer, VllmServerAtBest, clients_of
from bench.workload import Workload, WorkloadShape

PAUSE_S = 1.5
LARGE_SHAPE = "qwen3-30b-a3b"
WARM_UP = 4  # the part of a round's prompts that warms up
KINDS = {"sides": "Phalanx", "serve": "vllm serve", "direct": "the engines called directly"}  # by their flag


class Contestant(Side, Protocol):
    """A side that is asked in one way."""

    def run(self, work: Workload) -> Run:
        """Does a workload. Raises MeasurementFailed."""


class Figure(msgspec.Struct, kw_only=True):
    """All runs of one side on one workload."""

    side: str
    lengths: str
    floor: float | None  # tokens/s that the memory's bandwidth allows with the side's sequences
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
    kinds: dict[str, str]
    flags: list[str]
    side_flags: dict[str, str]  # of some sides, over those
    start_s: dict[str, float] = {}
    figures: list[Figure] = []


def _contestants(given: argparse.Namespace, model: Model, arguments: dict[str, Any]) -> dict[str, Contestant]:
    made: dict[str, Contestant] = {}
    for kind in KINDS:
        for name, over in getattr(given, kind).items():
            folder = given.out / "logs" / name
            folder.mkdir(parents=True, exist_ok=True)
            settings = EngineSettings(
                model=model.model,
                is_moe=model.is_moe and name not in given.replicas,
                dp_size=given.dp_size * given.shared.get(name, 1),
                tp_size=given.tp_size,
                ranks_per_gpu=given.shared.get(name, 1),
                device=given.device,
                arguments=merge(arguments, over),
            )
            flags = f"{given.flags} {given.side_flags.get(name, '')}".split()
            if kind == "sides":
                replicas = ["--no-expert-parallel"] if name in given.replicas else []
                made[name] = PhalanxServer.on(settings, folder, [*flags, *replicas])
            elif kind == "serve":
                server = VllmServer(settings, folder, given.side_flags.get(name, "").split())
                made[name] = VllmServerAtBest(server, clients_of(server, given.clients or CONNECTIONS[given.device]))
            else:
                made[name] = DirectEngines(settings, folder)
    return made


def _floor(given: argparse.Namespace, model: str, name: str, arguments: dict[str, Any], lengths: str) -> float | None:
    """Of a side; None where it cannot be said."""
    bandwidth = bandwidth_of(" ".join(describe_host().gpus))
    sequences = arguments.get("max_num_seqs")
    if bandwidth is None or sequences is None or given.tp_size > 1:
        return None
    work = _shape(given, model, lengths).make(0)
    shares = 1 if name in given.replicas or "--no-expert-parallel" in given.flags else given.dp_size
    # Copies of a GPU read the weights each by itself: what its bandwidth allows is that of one with all sequences.
    sequences *= given.shared.get(name, 1)
    return floor_tokens_per_s(DecoderShape.of(model), work, sequences, given.dp_size, shares, bandwidth)


def _shape(given: argparse.Namespace, model: str, lengths: str, part: int = 1) -> WorkloadShape:
    return WorkloadShape(
        prompts=-(-given.prompts // part),
        tokens=given.tokens,
        prompt_tokens=given.prompt_tokens,
        lengths=lengths,
        vocabulary=DecoderShape.of(model).vocab_size if lengths == "hidden" else None,
        groups=given.groups,
    )


def _rounds(
    given: argparse.Namespace,
    model: str,
    sides: dict[str, Contestant],
    figures: dict[tuple[str, str], Figure],
) -> Iterator[None]:
    """One after another, each beginning with another side; round 0 warms up, with fewer prompts, and is not kept."""
    deadline = time.monotonic() + given.time_limit_s
    names = list(sides)
    for number in range(given.runs + 1):
        for lengths in given.lengths.split(","):
            shape = _shape(given, model, lengths, 1 if number else WARM_UP)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                if time.monotonic() > deadline:
                    print("no time is left", flush=True)
                    return
                time.sleep(PAUSE_S)
                run = sides[name].run(shape.make(number))
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
            f"- {name} ({report.kinds[name]}): "
            f"`{' '.join(filter(None, (json.dumps(over), report.side_flags.get(name))))}`, "
            f"ready after {report.start_s[name]:.0f} s"
            for name, over in report.sides.items()
        ),
        "",
        "| side | lengths | output tokens/s, median | all | against the first side | of the memory's floor |",
        "|---|---|---|---|---|---|",
    ]
    first = next(iter(report.sides))
    bases = {figure.lengths: figure for figure in report.figures if figure.side == first}
    for figure in report.figures:
        if figure.runs and bases[figure.lengths].runs:
            median = statistics.median(figure.tokens_per_s)
            ratio = median / statistics.median(bases[figure.lengths].tokens_per_s)
            every = ", ".join(f"{rate:.0f}" for rate in figure.tokens_per_s)
            share = f"{median / figure.floor:.2f}" if figure.floor else ""
            lines.append(f"| {figure.side} | {figure.lengths} | {median:.0f} | {every} | {ratio:.2f} | {share} |")
    (folder / "settings.md").write_text("\n".join(lines) + "\n")


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="for the figures and the logs")
    add("--sides", type=json.loads, required=True, metavar="JSON", help="name: engine arguments over the defaults")
    add(
        "--serve", type=json.loads, default={}, metavar="JSON", help="the same of `vllm serve`; null is its own default"
    )
    add("--direct", type=json.loads, default={}, metavar="JSON", help="the same of the engines called directly")
    add("--replicas", type=lambda names: names.split(","), default=[], help="sides whose ranks share no experts")
    add("--shared", type=json.loads, default={}, metavar="JSON", help="name: how many replicas of it share each GPU")
    add("--clients", default="", metavar="LIST", help=f"PROMPTSxCONNECTIONS of a client of `vllm serve`: {CONNECTIONS}")
    add("--flags", default="", help="more flags of every `phalanx serve`")
    add("--side-flags", type=json.loads, default={}, metavar="JSON", help="name: more flags of that side's")
    add("--model", help="folder, hub name or built-in model; default: --shape, with made-up weights")
    add("--shape", choices=[SHAPE, LARGE_SHAPE], default=SHAPE, help="(%(default)s)")
    add("--model-dir", type=Path, help="where the shape is built (/tmp/SHAPE)")
    add("--prompts", type=int, default=4000)
    add("--prompt-tokens", type=int, default=100)
    add("--tokens", type=int, default=128)
    add(
        "--lengths",
        default="fixed,lognormal",
        help="hidden: answers end by themselves; shared: long beginnings in common (%(default)s)",
    )
    add("--groups", type=int, default=64, help="of prompts that begin alike, where they are shared (%(default)s)")
    add("--runs", type=int, default=3)
    add("--dp-size", type=int, default=2)
    add("--tp-size", type=int, default=1)
    add("--device", choices=["cpu", "cuda"], default=detect_device())
    add("--time-limit-s", type=float, default=480.0, help="no run begins so long after the start (%(default)s)")
    return parser


def _start(side: Contestant) -> float:
    """How many seconds it took."""
    began = time.monotonic()
    side.start()
    return time.monotonic() - began


def main(given_arguments: list[str], prog: str) -> int:
    """1 when a side does not start or a run fails."""
    given = _parser(prog).parse_args(given_arguments)
    given.replicas += given.shared
    given.out.mkdir(parents=True, exist_ok=True)
    arguments = {name: over for kind in KINDS for name, over in getattr(given, kind).items()}
    shared = DEFAULTS[given.device] | ({} if given.model else {"load_format": "dummy"})
    if given.device == "cuda":
        shared["gpu_memory_utilization"] = round(GPU_MEMORY / len(arguments), 2)
    try:
        model = inspect(given.model or build_model(given.model_dir or Path("/tmp", given.shape), given.shape))  # noqa: S108
        sides = _contestants(given, model, shared)
    except MeasurementFailed as error:
        print(error)
        return 1
    report = SettingsReport(
        command=f"{prog} {shlex.join(given_arguments)}",
        host=describe_host(),
        arguments=shared,
        sides=arguments,
        kinds={name: KINDS[kind] for kind in KINDS for name in getattr(given, kind)},
        flags=given.flags.split(),
        side_flags=given.side_flags,
    )
    figures = {
        (name, lengths): Figure(
            side=name, lengths=lengths, floor=_floor(given, model.model, name, merge(shared, over), lengths)
        )
        for lengths in given.lengths.split(",")
        for name, over in arguments.items()
    }
    report.figures = list(figures.values())
    try:
        is_told = all("kv_cache_memory_bytes" in over for over in arguments.values())
        with ThreadPoolExecutor(len(sides) if is_told or given.device == "cpu" else 1) as starters:
            report.start_s = dict(zip(sides, starters.map(_start, sides.values()), strict=True))
        print(f"ready after {report.start_s}", flush=True)
        for _ in _rounds(given, model.model, sides, figures):
            _write(report, given.out)
        _write(report, given.out)
    except MeasurementFailed as error:
        print(error)
        return 1
    finally:
        for side in sides.values():
            side.stop()
    print(f"\n# {given.model or given.shape}\n\n{(given.out / 'settings.md').read_text()}")
    return 0
