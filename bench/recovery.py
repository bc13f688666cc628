"""How long a service needs to be itself again after one of its processes was killed in the midst of a batch.

Phalanx is started, answers the batch once undisturbed, and then once for every victim: a rank, an engine core or a
worker.
All items must be answered every time. What happens in between is read off /v1/ranks, twenty times a second.
"""

import argparse
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from bench.engine_settings import DEFAULTS, EngineSettings, inspect, merge
from bench.gpu_moe import Host, build_model, describe_host
from bench.phalanx_server import PhalanxServer
from bench.processes import MeasurementFailed
from bench.workload import Workload, WorkloadShape

POLL_S = 0.05
DEADLINE_S = 420.0
BUILT_HERE = "powermoe-3b"
VICTIMS = {"rank": None, "engine-core": "EngineCore", "worker": "Worker", "coordinator": "DPCoordinator"}

Json = dict[str, Any]  # Any: JSON


class Moment(msgspec.Struct):
    """When a rank was first seen in a state, in seconds after the kill."""

    at_s: float
    rank: int
    state: str
    stage: str | None


class Recovery(msgspec.Struct, kw_only=True):
    """What came of one kill."""

    victim: str
    noticed_s: float  # until /health said so
    restarting_s: float  # until nothing was left of the group and its ranks were started again
    ready_s: float
    answered_s: float
    items: int
    ok: int
    equal_texts: int  # as in the undisturbed run
    attempts: int
    error: str | None
    moments: list[Moment]


class RecoveryReport(msgspec.Struct, kw_only=True):
    """Everything, as it is written."""

    command: str
    host: Host
    settings: EngineSettings
    cold_start_s: float
    undisturbed_s: float
    recoveries: list[Recovery] = []


class Subject:
    """The service, and the batch that it is given again and again."""

    def __init__(self, server: PhalanxServer, work: Workload) -> None:
        self._server = server
        self._body = {
            "prompts": [
                {"prompt": prompt, "sampling_params": {"max_tokens": n}}
                for prompt, n in zip(work.prompts, work.max_tokens, strict=True)
            ],
            "sampling_params": {"temperature": 0, "ignore_eos": True},
        }
        self.texts: list[str] = []  # of the undisturbed run

    def ranks(self) -> list[Json]:
        found: list[Json] = self._server.client.get("/v1/ranks").json()["data"]
        return found

    def ask(self) -> Json:
        """The answer to the batch."""
        answer = self._server.client.post("/v1/batch_generate", json=self._body)
        if answer.status_code != 200:
            raise MeasurementFailed(f"{answer.status_code} {answer.text[:500]}")
        found: Json = answer.json()
        return found

    def run_undisturbed(self) -> float:
        """Seconds."""
        began = time.monotonic()
        answer = self.ask()
        seconds = time.monotonic() - began
        self.texts = [text_of(result) for result in answer["results"]]
        return seconds

    def kill(self, victim: str) -> Recovery:
        """Kills it while the batch runs, and waits for the answer and for the ranks."""
        answers: list[tuple[float, Json]] = []
        client = threading.Thread(target=self._keep_answer, args=(answers,))
        client.start()
        self._await_half()
        os.kill(self._pid_of(victim), signal.SIGKILL)
        killed_at = time.monotonic()
        moments = self._watch(killed_at)
        client.join()
        if not answers:
            raise MeasurementFailed(f"after the kill of the {victim} the batch was not answered")
        return self._describe(victim, killed_at, moments, *answers[0])

    def _keep_answer(self, answers: list[tuple[float, Json]]) -> None:
        answer = self.ask()
        answers.append((time.monotonic(), answer))

    def _await_half(self) -> None:
        """Until the batch is in the midst of it: both ranks are full, and less than half still waits."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            waiting = next(
                float(line.split()[1])
                for line in self._server.client.get("/metrics").text.splitlines()
                if line.startswith("phalanx_backlog_items ")
            )
            if all(rank["held"] for rank in self.ranks()) and waiting < len(self.texts) / 2:
                return
            time.sleep(POLL_S)
        raise MeasurementFailed("the batch never ran")

    def _pid_of(self, victim: str) -> int:
        title = VICTIMS[victim]
        for rank in reversed(self.ranks()):
            if title is None:
                return int(rank["pid"])
            found = [pid for name, pid in rank["processes"].items() if title in name]
            if found:
                return int(found[0])
        raise MeasurementFailed(f"there is no {victim}")

    def _watch(self, killed_at: float) -> list[Moment]:
        """Until all ranks are ready again in a new life."""
        moments: list[Moment] = []
        seen: set[tuple[int, str, str | None, int]] = set()
        lives = {rank["rank"]: rank["incarnation"] for rank in self.ranks()}
        while time.monotonic() - killed_at < DEADLINE_S:
            ranks = self.ranks()
            at_s = round(time.monotonic() - killed_at, 2)
            for rank in ranks:
                key = (rank["rank"], rank["state"], rank["stage"], rank["incarnation"])
                if key not in seen:
                    seen.add(key)
                    moments.append(Moment(at_s, rank["rank"], rank["state"], rank["stage"]))
            lost = [rank for rank in ranks if rank["incarnation"] > lives[rank["rank"]]]
            if lost and all(rank["state"] == "ready" for rank in ranks):
                return moments
            time.sleep(POLL_S)
        raise MeasurementFailed("the ranks did not come back")

    def _describe(
        self, victim: str, killed_at: float, moments: list[Moment], answered_at: float, answer: Json
    ) -> Recovery:
        results = answer["results"]
        pairs = zip((text_of(result) for result in results), self.texts, strict=True)
        return Recovery(
            victim=victim,
            noticed_s=first(moments, "failed", "backoff"),
            restarting_s=first(moments, "starting"),
            ready_s=max(moment.at_s for moment in moments),
            answered_s=round(answered_at - killed_at, 2),
            items=len(results),
            ok=answer["request_counts"]["ok"],
            equal_texts=sum(one == other for one, other in pairs),
            attempts=sum(result["attempts"] for result in results),
            error=next((rank["last_error"] for rank in self.ranks() if rank["last_error"]), None),
            moments=moments,
        )


def text_of(result: Json) -> str:
    """The text of a result; nothing for one that failed."""
    return str(result["outputs"][0]["text"]) if result["outputs"] else ""


def first(moments: list[Moment], *states: str) -> float:
    """When any rank was first seen in one of these states."""
    return min((moment.at_s for moment in moments if moment.state in states), default=float("nan"))


def markdown(report: RecoveryReport) -> str:
    """The report for people."""
    lines = [
        f"# Recovery of {report.settings.dp_size} ranks after a kill -9 in the midst of a batch\n",
        f"`{report.command}`\n",
        *(f"- {gpu}" for gpu in report.host.gpus),
        f"- python {report.host.python}, " + ", ".join(f"{n} {v}" for n, v in report.host.versions.items()),
        f"- engines: `{json.dumps(report.settings.arguments)}`",
        f"- cold start {report.cold_start_s:.1f} s; the batch undisturbed {report.undisturbed_s:.1f} s\n",
        "| killed | noticed after | nothing left, started again after | ready after | batch answered after | ok "
        "| texts as undisturbed | attempts |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in report.recoveries:
        lines.append(
            f"| {one.victim} | {one.noticed_s:.2f} s | {one.restarting_s:.2f} s | {one.ready_s:.1f} s "
            f"| {one.answered_s:.1f} s | {one.ok} of {one.items} | {one.equal_texts} | {one.attempts} |"
        )
    for one in report.recoveries:
        lines += [f"\n## {one.victim}: {one.error}\n", "| after | rank | state | stage |", "|---|---|---|---|"]
        lines += [f"| {m.at_s:.2f} s | {m.rank} | {m.state} | {m.stage or ''} |" for m in one.moments]
    return "\n".join(lines) + "\n"


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="for the figures and the logs")
    add("--model", default="phalanx-tiny-random", help=f"or {BUILT_HERE}, built with made-up weights (%(default)s)")
    add("--victims", default="rank,engine-core,worker", help=f"of {', '.join(VICTIMS)} (%(default)s)")
    add("--prompts", type=int, default=2000)
    add("--prompt-tokens", type=int, default=100)
    add("--tokens", type=int, default=64)
    add("--dp-size", type=int, default=2)
    add("--tp-size", type=int, default=1)
    add("--ranks-per-gpu", type=int, default=1, help="more than one are replicas, which have a GPU together")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--engine-args", type=json.loads, default={}, metavar="JSON", help="over the defaults")
    return parser


def main(arguments: list[str], prog: str) -> int:
    """1 when an item was not answered, or the ranks did not come back."""
    given = _parser(prog).parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    defaults = dict(DEFAULTS[given.device])
    model = given.model
    if model == BUILT_HERE:
        model, defaults["load_format"] = build_model(given.out / BUILT_HERE), "dummy"
    settings = EngineSettings(
        model=inspect(model).model,
        is_moe=True,
        dp_size=given.dp_size,
        tp_size=given.tp_size,
        ranks_per_gpu=given.ranks_per_gpu,
        device=given.device,
        arguments=merge(defaults, given.engine_args),
    )
    server = PhalanxServer.on(settings, given.out)
    command = f"{prog} {' '.join(arguments)}"
    try:
        server.start()
        subject = Subject(server, WorkloadShape(given.prompts, given.tokens, given.prompt_tokens).make(1))
        report = RecoveryReport(
            command=command,
            host=describe_host(),
            settings=settings,
            cold_start_s=server.start_s,
            undisturbed_s=subject.run_undisturbed(),
        )
        for victim in given.victims.split(","):
            report.recoveries.append(subject.kill(victim))
            (given.out / "recovery.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
            (given.out / "recovery.md").write_text(markdown(report))
    finally:
        server.stop()
    print(markdown(report))
    return int(any(one.ok < one.items for one in report.recoveries))
