"""Side (a): the engines called directly, as a data_parallel.py script does: one process per rank, `vllm.LLM` in each.

The prompts are split evenly in order of arrival. The processes hang at exit on a CPU, so they are killed.
"""

import asyncio
import os
import sys
import time
from pathlib import Path

import msgspec

from bench.engine_settings import EngineSettings
from bench.measured import Run
from bench.processes import Child, MeasurementFailed, free_port
from bench.workload import Workload
from engines.host.mps import Mps

START_TIMEOUT_S = 900.0
# Ranks called this way have no coordinator that would wake one which has run out of requests early: the others then
# wait for it in their next collective, until vLLM gives up after five minutes. Seen once in twenty runs, on a busy
# machine. So a run that takes far longer than it could is a failed one.
RUN_TIMEOUT_S = 120.0
SLOWEST_TOKENS_PER_S = 5000.0  # beyond that time


class DirectEngines:
    """One `vllm.LLM` per rank: expert-parallel together for a MoE model, independent for a dense one."""

    name = "the engines called directly"

    def __init__(self, settings: EngineSettings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._ranks: list[Child] = []
        self._mps: Mps | None = None
        self._sharing: dict[str, str] = {}  # variables of ranks that share a GPU

    @property
    def pids(self) -> list[int]:
        return [rank.pid for rank in self._ranks]

    def start(self) -> None:
        port = free_port()
        if self._settings.ranks_per_gpu > 1:
            self._mps = Mps(os.environ)
            self._sharing = asyncio.run(self._mps.ensure(self._folder))
        for number in range(self._settings.dp_size):
            self._ranks.append(self._spawn(number, port))
        for rank in self._ranks:
            _expect(rank, "ready", START_TIMEOUT_S)

    def run(self, work: Workload) -> Run:
        shares = [work.share(number, len(self._ranks)) for number in range(len(self._ranks))]
        for number, (rank, share) in enumerate(zip(self._ranks, shares, strict=True)):
            self._share(number).write_bytes(msgspec.json.encode(share))
            rank.tell(f"load {self._share(number)}")
        timeout_s = RUN_TIMEOUT_S + work.output_tokens / SLOWEST_TOKENS_PER_S
        for number, rank in enumerate(self._ranks):
            _expect(rank, "loaded", timeout_s)
            self._share(number).unlink()
        began = time.monotonic()
        for rank in self._ranks:
            rank.tell("go")
        tokens = sum(int(_expect(rank, "done", timeout_s)) for rank in self._ranks)
        seconds = time.monotonic() - began
        if not work.is_answered_by(tokens):
            raise MeasurementFailed(f"{self.name}: {tokens} tokens came out, not {work.output_tokens}")
        return Run(seconds=seconds, prompts=len(work.prompts), output_tokens=tokens)

    def stop(self) -> None:
        for rank in self._ranks:
            rank.stop(grace_s=0)
        self._ranks.clear()
        if self._mps is not None:
            self._mps.close()
            self._mps = None

    def _share(self, number: int) -> Path:
        return self._folder / f"share-{number}.json"

    def _spawn(self, number: int, port: int) -> Child:
        settings = self._settings
        arguments = settings.arguments | {"model": settings.model, "disable_log_stats": False}
        if settings.tp_size > 1:
            arguments["tensor_parallel_size"] = settings.tp_size
        if settings.is_moe:
            arguments["enable_expert_parallel"] = True
        command = [sys.executable, "-P", "-m", "bench.direct_rank", msgspec.json.encode(arguments).decode()]
        log = self._folder / f"direct-{number}.log"
        return Child(command, log, self._variables(number, port), talks=True)

    def _variables(self, number: int, port: int) -> dict[str, str]:
        settings = self._settings
        if not settings.is_lockstep:
            variables = settings.environment(settings.cores[number] if settings.cores else None)
            if settings.device == "cuda":
                first = number // settings.ranks_per_gpu * settings.tp_size
                gpus = range(first, first + settings.tp_size)
                variables["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
            return variables | self._sharing
        # vLLM takes a rank's part of the list itself, by VLLM_DP_RANK_LOCAL.
        return settings.environment("|".join(settings.cores)) | {
            "VLLM_DP_RANK": str(number),
            "VLLM_DP_RANK_LOCAL": str(number),
            "VLLM_DP_SIZE": str(settings.dp_size),
            "VLLM_DP_MASTER_IP": "127.0.0.1",
            "VLLM_DP_MASTER_PORT": str(port),
        }


def _expect(rank: Child, word: str, timeout_s: float) -> str:
    """What follows the word in the rank's next line."""
    line = rank.hear(timeout_s)
    said, _, rest = line.partition(" ")
    if said != word:
        raise rank.failure(f"it said {line!r} instead of {word!r}")
    return rest
