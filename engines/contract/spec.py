"""What a rank is told when it is started: one JSON file in its incarnation's private directory."""

from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import msgspec

from engines.contract.limits import ParameterLimits

FAREWELL = b"."  # what the gateway writes to a guardian before it lets go; its death closes the pipe without a word
RANK_FOLDER_VARIABLE = "VLLM_RPC_BASE_PATH"  # its private folder: whatever runs below a rank has it
RUNTIME_LOCK = "lock"  # in the folder of a gateway's sockets, held for as long as the gateway lives


class EngineKind(StrEnum):
    """Which engine a rank holds."""

    VLLM = "vllm"
    SIMULATED = "simulated"  # no model: a tool for load and chaos, never the default


class ExecutorKind(StrEnum):
    """Who starts a rank's tensor-parallel workers."""

    AUTO = "auto"  # vLLM itself
    EXTERNAL_LAUNCHER = "external_launcher"  # torchrun, between the guardian and the workers


class GroupKind(StrEnum):
    """Which ranks live and die together."""

    LOCKSTEP = "lockstep"  # all ranks: every forward pass is a collective of the expert-parallel MoE model
    REPLICAS = "replicas"  # each rank is a group of its own


class LockstepAddress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the ranks of a lock-step group meet. Fresh ports for every incarnation of the group."""

    host: str
    rpc_port: int  # vLLM's data-parallel coordinator
    master_port: int  # torch's process groups


class GatewayAddress(msgspec.Struct, frozen=True):
    """Where one life of a rank finds its gateway."""

    endpoint: str  # ipc:// for this rank alone; tcp:// for the ranks of all other nodes
    identity: str = ""  # by which the gateway knows the rank's connection, over tcp://
    epoch: int = 0  # which life of the gateway this is


class Share(msgspec.Struct, frozen=True):
    """The part of its host that one rank has."""

    gpus: tuple[str, ...] = ()  # as CUDA_VISIBLE_DEVICES names them
    cores: str | None = None  # in VLLM_CPU_OMP_THREADS_BIND's syntax
    ranks_per_gpu: int = 1  # that have these GPUs, this one included


class RankSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a rank needs to know, but for its environment variables."""

    rank: int
    incarnation: int
    epoch: int = 0  # which life of the gateway this is: what an earlier one was told means nothing to it
    dp_size: int
    tp_size: int
    engine: EngineKind
    executor: ExecutorKind = ExecutorKind.AUTO
    group_kind: GroupKind
    expert_parallel: bool
    model: str  # a folder or a hub name
    served_as: str = ""  # what requests and answers call it
    device: str  # "cuda" or "cpu"
    endpoint: str = ""  # the gateway's ZeroMQ socket: ipc:// for this rank alone, tcp:// for all of other nodes
    identity: str = ""  # by which the gateway knows this rank's connection, over tcp://
    node_keys_file: str | None = None  # what the connection is encrypted with; None: it is not
    directory: str = ""  # private to this incarnation, mode 0700; like the log, the host knows it when it starts a rank
    log_file: str = ""
    gpus: list[str] = []  # as CUDA_VISIBLE_DEVICES names them
    ranks_per_gpu: int = 1  # that have these GPUs, this one included
    mps: bool = False  # whether its host sees to it that NVIDIA's MPS runs
    lockstep: LockstepAddress | None = None
    engine_args: dict[str, Any] = {}  # the engine's own argument names; Any: checked by the engine itself
    extra_args: list[str] = []  # the engine's own command-line flags, checked by the engine itself
    limits: ParameterLimits = ParameterLimits()  # on the parameters of exchanges
    structure_cpu_s: float = 5.0  # that compiling a structure may take
    status_interval_s: float = 1.0
    stop_timeout_s: float = 20.0
    kill_grace_s: float = 3.0  # how long resource trackers may take to free shared memory
    log_format: Literal["json", "console"] = "console"  # of what the rank itself logs, and vLLM in it
    log_prompts: bool = False  # whether prompts, outputs and sampling parameters may reach the log
    otlp_traces_endpoint: str | None = None  # where spans go; None: there are none

    @property
    def ids(self) -> dict[str, int]:
        """What tells this life of this rank from all others, in logs and traces."""
        return {"rank": self.rank, "incarnation": self.incarnation}

    @property
    def title(self) -> str:
        """The process title of the rank, as `ps` shows it."""
        return f"phalanx-rank {self.rank}"

    def worker_title(self, number: int) -> str:
        """The process title of a worker that torchrun started beside the rank."""
        return f"phalanx-worker {self.rank}.{number}"

    @property
    def is_launched(self) -> bool:
        """Whether torchrun starts its workers, of which the first is the rank."""
        return self.executor is ExecutorKind.EXTERNAL_LAUNCHER

    @property
    def guardian_title(self) -> str:
        """The process title of the rank's guardian."""
        return f"phalanx-guardian {self.rank}"


class RankVariables(msgspec.Struct, frozen=True):
    """A rank's environment variables, but for those that are its host's own; and the vLLM plugins that it needs."""

    values: dict[str, str]
    plugins: list[str] = []


def write_spec(spec: RankSpec, path: Path) -> None:
    """Writes the spec where its rank will read it."""
    path.write_bytes(msgspec.json.encode(spec))


def read_spec(path: Path) -> RankSpec:
    """The spec that a launcher wrote. Raises msgspec.ValidationError for anything else."""
    return msgspec.json.decode(path.read_bytes(), type=RankSpec)
