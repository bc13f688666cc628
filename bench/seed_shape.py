"""data_parallel.py's own shape, DP x TP with expert parallelism, beside as many ranks of one GPU and one rank alone.

All three services hold the same weights and are up at once, each with a third of the memory. Four prompts x 100 are
sampled with parameters of their own, and once more greedily by all three: how many of the texts are the same? A large
batch is timed, in turns. Then a worker is killed in the midst of it, and every item must be answered.
"""

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from bench.engine_settings import DEFAULTS, EngineSettings, detect_device, inspect, merge
from bench.gpu_moe import GPU_MEMORY, SHAPE, Host, build_model, describe_host
from bench.made_up_weights import add_weights
from bench.measured import Run
from bench.phalanx_server import PhalanxServer
from bench.processes import MeasurementFailed
from bench.recovery import Recovery, Subject
from bench.seed_workload import batch, problems, show
from bench.workload import WorkloadShape

PAUSE_S = 1.5
Json = dict[str, Any]  # Any: JSON
Texts = list[list[int]]  # the token ids of each


class Agreement(msgspec.Struct, kw_only=True):
    """Greedy answers of one service to the 400 prompts, beside those of one rank alone."""

    side: str
    texts: int
    equal: int
    tokens: int
    tokens_before_difference: int  # until each text first differs; all of an equal one


class Figure(msgspec.Struct, kw_only=True):
    """All timed runs of one service."""

    side: str
    runs: list[Run] = []


class SeedShapeReport(msgspec.Struct, kw_only=True):
    """Everything, as it is written."""

    command: str
    host: Host
    sides: dict[str, EngineSettings]
    start_s: dict[str, float] = {}
    seed_s: float | None = None  # the four prompts x 100, sampled
    seed_problems: list[str] = []
    agreements: list[Agreement] = []
    figures: list[Figure] = []
    undisturbed_s: float | None = None
    recovery: Recovery | None = None


def greedy(server: PhalanxServer) -> Texts:
    """The seed's prompts, each with a number before it, or all 400 would be four."""
    sent = batch()
    for index, prompt in enumerate(sent["prompts"]):
        prompt["prompt"] = f"{index}. {prompt['prompt']}"
    sent["sampling_params"] = {"temperature": 0, "ignore_eos": True}
    answer = server.client.post("/v1/batch_generate", json=sent | {"return_token_ids": True})
    if answer.status_code != 200:
        raise MeasurementFailed(f"{answer.status_code} {answer.text[:500]}")
    return [result["outputs"][0]["token_ids"] for result in answer.json()["results"]]


def agree(side: str, texts: Texts, others: Texts) -> Agreement:
    """How far the texts are the others."""
    return Agreement(
        side=side,
        texts=len(texts),
        equal=sum(one == other for one, other in zip(texts, others, strict=True)),
        tokens=sum(map(len, texts)),
        tokens_before_difference=sum(map(common_beginning, texts, others)),
    )


def common_beginning(one: list[int], other: list[int]) -> int:
    """How many tokens both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


def markdown(report: SeedShapeReport) -> str:
    """The report for people."""
    lines = [f"`{report.command}`\n", *(f"- {gpu}" for gpu in report.host.gpus)]
    lines += [f"- python {report.host.python}, " + ", ".join(f"{n} {v}" for n, v in report.host.versions.items())]
    lines += [
        f"- {name}: dp_size {side.dp_size}, tp_size {side.tp_size}, `{json.dumps(side.arguments)}`, "
        f"ready after {report.start_s.get(name, float('nan')):.0f} s"
        for name, side in report.sides.items()
    ]
    if report.seed_s is not None:
        lines.append(f"\nThe seed's 400 prompts: {report.seed_s:.3f} s, {len(report.seed_problems)} problems")
        lines += [f"- {problem}" for problem in report.seed_problems]
    lines += ["\n| greedy texts | equal to one rank's | tokens before the first difference |", "|---|---|---|"]
    lines += [
        f"| {one.side} | {one.equal} of {one.texts} | {one.tokens_before_difference} of {one.tokens} |"
        for one in report.agreements
    ]
    lines += ["\n| side | output tokens/s, each run | seconds | balance |", "|---|---|---|---|"]
    lines += [
        f"| {one.side} | {', '.join(f'{run.output_tokens / run.seconds:.0f}' for run in one.runs)} "
        f"| {', '.join(f'{run.seconds:.2f}' for run in one.runs)} "
        f"| {', '.join(str(run.balance_ratio) for run in one.runs)} |"
        for one in report.figures
    ]
    if report.recovery is not None:
        one = report.recovery
        lines.append(
            f"\nA worker killed in the midst of the batch: noticed after {one.noticed_s:.2f} s, started again after "
            f"{one.restarting_s:.2f} s, ready after {one.ready_s:.1f} s, answered after {one.answered_s:.1f} s "
            f"(undisturbed {report.undisturbed_s:.1f} s); {one.ok} of {one.items} ok, {one.equal_texts} texts as "
            f"undisturbed, {one.attempts} attempts"
        )
    return "\n".join(lines) + "\n"


def _measure(given: argparse.Namespace, report: SeedShapeReport, servers: dict[str, PhalanxServer]) -> None:
    def save() -> None:
        (given.out / "seed_shape.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
        (given.out / "seed_shape.md").write_text(markdown(report))

    seed, *_, alone = servers
    # An engine that starts takes the memory that others take meanwhile for its own: two at once are alike.
    with ThreadPoolExecutor(len(servers)) as starters:
        list(starters.map(PhalanxServer.start, (server for name, server in servers.items() if name != alone)))
    servers[alone].start()
    report.start_s = {name: server.start_s for name, server in servers.items()}
    save()
    began = time.monotonic()
    answer = servers[seed].client.post("/v1/batch_generate", json=batch())
    report.seed_s = time.monotonic() - began
    if answer.status_code != 200:
        raise MeasurementFailed(f"{answer.status_code} {answer.text[:500]}")
    show(answer.json())
    report.seed_problems = problems(batch(), answer.json(), report.sides[seed].dp_size)
    reference = greedy(servers[alone])
    # Once more by the same rank: batches never fall the same way twice, and bfloat16 sums depend on them.
    report.agreements = [agree(name, greedy(server), reference) for name, server in servers.items()]
    save()
    if given.agreement_only:
        return
    shape = WorkloadShape(given.prompts, given.tokens, given.prompt_tokens)
    report.figures = [Figure(side=name) for name in servers if name != alone]
    for number in range(given.runs + 1):  # run 0 warms up
        for figure in report.figures[number % 2 :] + report.figures[: number % 2]:
            time.sleep(PAUSE_S)
            run = servers[figure.side].run(shape.make(number))
            print(f"run {number}, {figure.side}: {run.output_tokens / run.seconds:.0f} tokens/s", flush=True)
            if number:
                figure.runs.append(run)
        save()
    subject = Subject(servers[seed], shape.make(given.runs + 1))
    report.undisturbed_s = subject.run_undisturbed()
    report.recovery = subject.kill("worker")
    save()


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="for the figures and the logs")
    add("--model", help=f"folder, hub name or built-in model; default: {SHAPE} with random weights")
    add("--model-dir", type=Path, default=Path("/tmp/powermoe-3b-random"), help="where it is built (%(default)s)")  # noqa: S108
    add("--dp-size", type=int, default=2)
    add("--tp-size", type=int, default=2)
    add("--prompts", type=int, default=20_000)
    add("--prompt-tokens", type=int, default=100)
    add("--tokens", type=int, default=64)
    add("--runs", type=int, default=2)
    add("--agreement-only", action="store_true", help="the 400 prompts alone: no figures, no kill")
    add("--device", choices=["cpu", "cuda"], default=detect_device())
    add("--engine-args", type=json.loads, default={}, metavar="JSON", help="over the defaults, on all sides")
    return parser


def main(arguments: list[str], prog: str) -> int:
    """1 when a service does not start, an item fails, or the answers to the seed's prompts are not as they should."""
    given = _parser(prog).parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    shared = dict(DEFAULTS[given.device])
    sizes = [(given.dp_size, given.tp_size), (given.dp_size * given.tp_size, 1), (1, 1)]
    if given.device == "cuda":
        shared["gpu_memory_utilization"] = round(GPU_MEMORY / len(sizes), 2)
    servers: dict[str, PhalanxServer] = {}
    try:
        if given.model:
            model = inspect(given.model).model
        else:
            model = build_model(given.model_dir)
            add_weights(Path(model))
        sides = {
            f"DP={dp} TP={tp}": EngineSettings(
                model=model,
                is_moe=True,
                dp_size=dp,
                tp_size=tp,
                device=given.device,
                arguments=merge(shared, given.engine_args),
            )
            for dp, tp in sizes
        }
        report = SeedShapeReport(command=f"{prog} {' '.join(arguments)}", host=describe_host(), sides=sides)
        for name, settings in sides.items():
            folder = given.out / name.replace(" ", "-").replace("=", "").lower()
            folder.mkdir(exist_ok=True)
            servers[name] = PhalanxServer.on(settings, folder)
        _measure(given, report, servers)
    except MeasurementFailed as error:
        print(error)
        return 1
    finally:
        for server in servers.values():
            server.stop()
    print(markdown(report))
    recovery = report.recovery
    is_well = given.agreement_only if recovery is None else recovery.ok == recovery.items
    return int(bool(report.seed_problems) or not is_well)
