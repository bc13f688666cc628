"""Side (c): `phalanx serve`, asked by an httpx client with the whole workload in one request."""

import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from bench.engine_settings import CPU_KV_CACHE_GIB, EngineSettings
from bench.measured import Run
from bench.processes import Child, MeasurementFailed, cost_of, free_port, wait_ready
from bench.workload import Workload

START_TIMEOUT_S = 900.0
STOP_GRACE_S = 60.0
TIMEOUT_S = 1800.0


class Stage(msgspec.Struct):
    """A stage of a rank's start, and how long it took as seen from outside (polled twenty times a second)."""

    rank: int
    stage: str
    seconds: float = 0.0


class PhalanxServer:
    """A gateway and its ranks. Without a workload it serves as a service under test, too."""

    name = "Phalanx, one request"

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        self._arguments = list(arguments)
        self._folder = folder
        self._child: Child | None = None
        self._client: httpx.Client | None = None
        self.url = ""
        self.start_s = 0.0
        self.stages: list[Stage] = []

    @classmethod
    def on(cls, settings: EngineSettings, folder: Path, flags: Sequence[str] = ()) -> "PhalanxServer":
        """With the same engines as the other sides, and more flags."""
        arguments = ["--model", settings.model, "--dp-size", str(settings.dp_size), "--tp-size", str(settings.tp_size)]
        arguments += ["--device", settings.device, "--engine-args", msgspec.json.encode(settings.arguments).decode()]
        if settings.device == "cpu":
            arguments += ["--cpu-kv-cache-gib", str(CPU_KV_CACHE_GIB)]
        if settings.ranks_per_gpu > 1:
            arguments += ["--ranks-per-gpu", str(settings.ranks_per_gpu)]
        return cls([*arguments, *flags], folder)

    @property
    def pids(self) -> list[int]:
        return [self._child.pid] if self._child else []

    @property
    def client(self) -> httpx.Client:
        """For requests to the service."""
        if self._client is None:
            self._client = httpx.Client(base_url=self.url, timeout=TIMEOUT_S, trust_env=False)
        return self._client

    def start(self) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-P", "-m", "phalanx", "serve", "--port", str(port)]
        command += ["--log-dir", str(self._folder / "ranks")]
        if "--tuned-dir" not in self._arguments:
            command.append("--no-tuned")  # a side is what it says
        if "--journal-url" not in self._arguments:
            command += ["--data-dir", str(self._folder / f"journal.{port}")]
        command += self._arguments
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PHALANX_")}
        began = time.monotonic()
        self.stages = []
        self._child = Child(command, self._folder / "phalanx.log", variables)
        wait_ready(self._child, self._is_ready, START_TIMEOUT_S)
        self.start_s = time.monotonic() - began

    def run(self, work: Workload) -> Run:
        equal = work.has_equal_lengths
        shared = dict(work.sampling)
        if equal:
            shared["max_tokens"] = work.max_tokens[0]
        lengths = zip(work.prompts, work.max_tokens, strict=True)
        prompts = [
            prompt if equal else {"prompt": prompt, "sampling_params": {"max_tokens": n}} for prompt, n in lengths
        ]
        cpu_before = cost_of(self.pids[0]).cpu_s
        began = time.monotonic()
        answer = self.client.post("/v1/batch_generate", json={"prompts": prompts, "sampling_params": shared})
        body = answer.json()
        seconds = time.monotonic() - began
        cpu_s = cost_of(self.pids[0]).cpu_s - cpu_before
        if answer.status_code != 200 or body["request_counts"]["ok"] != len(work.prompts):
            raise MeasurementFailed(f"{self.name}: {answer.status_code} {answer.text[:500]}")
        tokens = body["usage"]["completion_tokens"]
        if not work.is_answered_by(tokens):
            raise MeasurementFailed(f"{self.name}: {tokens} tokens came out, not {work.output_tokens}")
        return Run(
            seconds=seconds,
            prompts=len(work.prompts),
            output_tokens=tokens,
            balance_ratio=body["stats"]["balance_ratio"],
            gateway_cpu_us=cpu_s / len(work.prompts) * 1e6,
        )

    def stop(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._child is not None:
            self._child.stop(STOP_GRACE_S)
            self._child = None

    def _is_ready(self) -> bool:
        try:
            health = self.client.get("/health/ready").json()
        except httpx.TransportError:
            return False
        self._watch_stages(health["ranks"])
        return bool(health["status"] == "ok")

    def _watch_stages(self, ranks: list[dict[str, Any]]) -> None:
        """A stage's time is its age when it was last seen; the stage after it says when it ended."""
        for rank in ranks:
            stage = next((s for s in self.stages if (s.rank, s.stage) == (rank["rank"], rank["stage"])), None)
            if stage is None:
                stage = Stage(rank["rank"], rank["stage"] or rank["state"])
                self.stages.append(stage)
            stage.seconds = rank["stage_age_s"]


def lags_of(exposition: str) -> Counter[float]:
    """From /metrics: how often the gateway's event loop was at most so late, in seconds. Two can be subtracted."""
    found = re.findall(r'^phalanx_event_loop_lag_seconds_bucket{le="(.+)"} (.+)$', exposition, re.MULTILINE)
    return Counter({float(bound): int(float(count)) for bound, count in found})


@contextmanager
def serving(arguments: Sequence[str], folder: Path) -> Iterator[PhalanxServer]:
    """A service that is ready, for as long as the block runs."""
    server = PhalanxServer(arguments, folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
