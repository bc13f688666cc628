"""The engines' settings, the same on all sides, and how each side is told them."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from app.ranks.cores import cpu_shares, usable_cores
from bench.processes import MeasurementFailed
from engines.contract.tuned import sequence_arguments

# What `phalanx serve` chooses by itself, written out, so that the other sides can be given it; on GPUs, for a model of
# a few billion parameters (engines/vllm_engine/batch_defaults.py).
DEFAULTS: dict[str, dict[str, Any]] = {  # Any: engine arguments
    "cpu": {"max_num_seqs": 256, "max_num_batched_tokens": 4096, "dtype": "float32", "enforce_eager": True},
    "cuda": sequence_arguments(1024, "cuda") | {"max_num_batched_tokens": 16384},
}
CPU_KV_CACHE_GIB = 1


class Model(msgspec.Struct):
    """What `python -m engines inspect` says of a model."""

    model: str = ""
    is_moe: bool = False
    error: str | None = None


class EngineSettings(msgspec.Struct, kw_only=True):
    """What every engine of a comparison is given."""

    model: str  # a folder or a hub name
    is_moe: bool
    dp_size: int
    tp_size: int = 1
    ranks_per_gpu: int = 1  # of dp_size; more than one are replicas, and clients of NVIDIA's MPS
    device: str
    arguments: dict[str, Any]  # by vLLM's names; Any: vLLM checks them

    @property
    def is_lockstep(self) -> bool:
        """Whether the ranks share the experts of a MoE model; otherwise they are independent."""
        return self.is_moe and self.dp_size > 1 and self.ranks_per_gpu == 1

    @property
    def cores(self) -> list[str]:
        """The cores of each rank, as Phalanx deals them out; empty where there are GPUs."""
        return cpu_shares(usable_cores(self.dp_size), self.dp_size, self.tp_size) if self.device == "cpu" else []

    def environment(self, cores: str | None) -> dict[str, str]:
        """The variables that engines run with. `cores` is in the syntax of VLLM_CPU_OMP_THREADS_BIND."""
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("PHALANX_", "VLLM_DP_"))}
        if self.device == "cpu":
            variables["VLLM_CPU_KVCACHE_SPACE"] = str(CPU_KV_CACHE_GIB)
            if cores:
                variables["VLLM_CPU_OMP_THREADS_BIND"] = cores
            if self.is_lockstep:
                variables["PHALANX_RANK_CPU_EXPERT_PARALLEL"] = "1"  # vLLM's CPU build cannot do it unmended
        return variables


def inspect(model: str) -> Model:
    """What the model is, and where. The built-in ones are built first."""
    command = [sys.executable, "-P", "-m", "engines", "inspect", "--model", model]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    found = msgspec.json.decode(answer.stdout.splitlines()[-1] if answer.stdout else b'{"error":"?"}', type=Model)
    if found.error is not None:
        raise MeasurementFailed(f"model {model!r} cannot be used: {found.error}")
    return found


def add_settings_flags(parser: argparse.ArgumentParser, *, dp_size: int, for_whom: str) -> None:
    """Those of `settings_of`, but for --model."""
    add = parser.add_argument
    add("--dp-size", type=int, default=dp_size, help="(%(default)s)")
    add("--tp-size", type=int, default=1, help="(%(default)s)")
    add("--device", choices=["cpu", "cuda"], default=detect_device(), help="(%(default)s)")
    add("--engine-args", type=json.loads, default={}, metavar="JSON", help=f"over Phalanx's defaults, {for_whom}")


def settings_of(given: argparse.Namespace) -> EngineSettings:
    """By the flags of these names, over the defaults. Raises MeasurementFailed."""
    model = inspect(given.model)
    return EngineSettings(
        model=model.model,
        is_moe=model.is_moe,
        dp_size=given.dp_size,
        tp_size=given.tp_size,
        device=given.device,
        arguments=merge(DEFAULTS[given.device], given.engine_args),
    )


def merge(arguments: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with others over them; null takes one out, so that vLLM's own default holds."""
    return {name: value for name, value in (dict(arguments) | dict(over)).items() if value is not None}


def as_flags(arguments: Mapping[str, Any]) -> list[str]:
    """Engine arguments as vLLM's command line takes them."""
    flags: list[str] = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}", json.dumps(value) if isinstance(value, (dict, list)) else str(value)]
    return flags


def detect_device() -> str:
    """cuda where there is an NVIDIA GPU, else cpu."""
    return "cuda" if any(Path("/dev").glob("nvidia[0-9]*")) else "cpu"
