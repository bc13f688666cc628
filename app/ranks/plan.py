"""What is to be started: decided once, before any rank, from the settings, the model and the machine."""

import random
import socket
from collections.abc import Mapping
from pathlib import Path

import msgspec

from app.ranks.model import ModelFacts
from app.settings.declaration import Settings
from engines.contract.protocol import RankFacts
from engines.contract.spec import EngineKind, GroupKind, LockstepAddress, RankSpec

LOOPBACK = "127.0.0.1"
CPU_PLUGIN = "phalanx_cpu_expert_parallel"  # its name among pyproject.toml's entry points
WITHHOLDING_PLUGIN = "phalanx_withhold_prompts"  # the same
RANK_FOLDER_VARIABLE = "VLLM_RPC_BASE_PATH"  # whatever runs below a rank has it
LOCKSTEP_PORTS = 10  # vLLM's groups take consecutive ports from the master port on
PORT_RANGE = (20000, 32000)  # below the kernel's ephemeral ports, which clients use up


class NoFreePorts(OSError):
    """A lock-step group has no ports to meet at. They may come free."""


class Share(msgspec.Struct, frozen=True):
    """The part of the machine that one rank has."""

    gpus: tuple[str, ...] = ()
    cores: str | None = None  # in VLLM_CPU_OMP_THREADS_BIND's syntax


class Plan(msgspec.Struct, frozen=True):
    """How the ranks are grouped, and what each one gets."""

    model: ModelFacts
    group_kind: GroupKind
    expert_parallel: bool
    device: str  # "cuda" or "cpu"
    shares: tuple[Share, ...]

    @property
    def dp_size(self) -> int:
        """Ranks altogether."""
        return len(self.shares)

    def group_of(self, rank: int) -> int:
        """The group that a rank belongs to."""
        return 0 if self.group_kind is GroupKind.LOCKSTEP else rank


def make_plan(settings: Settings, model: ModelFacts, device: str, shares: tuple[Share, ...]) -> Plan:
    """Lock-step for a MoE model whose experts are spread over several ranks; replicas for everything else."""
    expert_parallel = model.is_moe and settings.expert_parallel
    lockstep = expert_parallel and len(shares) > 1
    return Plan(model, GroupKind.LOCKSTEP if lockstep else GroupKind.REPLICAS, expert_parallel, device, shares)


def figures(settings: Settings, plan: Plan) -> dict[str, object]:
    """The plan in a log line."""
    return {
        "model": settings.public_name,
        "engine": str(settings.engine),
        "device": plan.device,
        "dp_size": plan.dp_size,
        "tp_size": settings.tp_size,
        "group_kind": str(plan.group_kind),
        "expert_parallel": plan.expert_parallel,
    }


def mismatch(plan: Plan, facts: RankFacts) -> str | None:
    """What a rank's engine says against what was decided from the model's config; None if they agree."""
    if facts.is_moe != plan.model.is_moe:
        believed = _kind(plan.model.is_moe)
        return f"its engine takes the model for {_kind(facts.is_moe)}, its config.json says {believed}"
    wanted = plan.dp_size if plan.group_kind is GroupKind.LOCKSTEP else 1
    if facts.data_parallel_size != wanted:
        return f"its engine is one of {facts.data_parallel_size} data-parallel ranks, not of {wanted}"
    return None


def _kind(is_moe: bool) -> str:
    return "a mixture of experts" if is_moe else "a dense model"


def make_spec(
    settings: Settings,
    plan: Plan,
    rank: int,
    incarnation: int,
    endpoint: str,
    directory: Path,
    log_file: Path,
    lockstep: LockstepAddress | None,
) -> RankSpec:
    """What one rank is told."""
    return RankSpec(
        rank=rank,
        incarnation=incarnation,
        dp_size=plan.dp_size,
        tp_size=settings.tp_size,
        engine=settings.engine,
        group_kind=plan.group_kind,
        expert_parallel=plan.expert_parallel,
        model=plan.model.model,
        endpoint=endpoint,
        directory=str(directory),
        log_file=str(log_file),
        device=plan.device,
        lockstep=lockstep,
        engine_args=settings.engine_arguments(),
        extra_args=list(settings.extra_args),
        structure_cpu_s=settings.structure_cpu_s,
        stop_timeout_s=settings.stop_timeout_s,
        log_format="json" if settings.log_format == "json" else "console",  # a file is no terminal, and people read it
        log_prompts=settings.log_prompts,
        otlp_traces_endpoint=settings.otlp_traces_endpoint,
    )


def environment(
    base: Mapping[str, str],
    settings: Settings,
    plan: Plan,
    rank: int,
    directory: Path,
    lockstep: LockstepAddress | None,
) -> dict[str, str]:
    """A rank's environment variables: the gateway's own, and what makes this rank this one."""
    share = plan.shares[rank]
    variables = dict(base)
    variables["PYTHONUNBUFFERED"] = "1"
    variables[RANK_FOLDER_VARIABLE] = str(directory)  # vLLM's sockets go where the guardian removes them
    if plan.device == "cuda":
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(share.gpus)
        variables["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # NVML's order, in which the devices were counted
    elif settings.engine is EngineKind.VLLM:
        variables["VLLM_CPU_KVCACHE_SPACE"] = str(settings.cpu_kv_cache_gib)
        if share.cores:
            variables["VLLM_CPU_OMP_THREADS_BIND"] = share.cores
        if plan.group_kind is GroupKind.LOCKSTEP:
            variables["PHALANX_RANK_CPU_EXPERT_PARALLEL"] = "1"
            _take_plugin(variables, CPU_PLUGIN)
    if settings.engine is EngineKind.VLLM and not settings.log_prompts:
        variables["PHALANX_RANK_WITHHOLD_PROMPTS"] = "1"
        _take_plugin(variables, WITHHOLDING_PLUGIN)
    if lockstep is not None:
        variables["VLLM_DP_MASTER_IP"] = lockstep.host
        variables["VLLM_DP_MASTER_PORT"] = str(lockstep.master_port)
    return variables


def _take_plugin(variables: dict[str, str], plugin: str) -> None:
    """An operator's choice of vLLM's plugins must not leave out the one it takes."""
    if "VLLM_PLUGINS" in variables:
        variables["VLLM_PLUGINS"] = ",".join(filter(None, [variables["VLLM_PLUGINS"], plugin]))


def lockstep_address(plan: Plan) -> LockstepAddress | None:
    """Fresh ports on this host for one life of a group; None for replicas. Raises NoFreePorts."""
    if plan.group_kind is not GroupKind.LOCKSTEP:
        return None
    first = _free_port_run(LOCKSTEP_PORTS + 1)
    return LockstepAddress(host=LOOPBACK, rpc_port=first, master_port=first + 1)


def _free_port_run(length: int) -> int:
    """The first of `length` consecutive ports that nobody listens on now."""
    for _ in range(200):
        first = random.randrange(*PORT_RANGE)  # noqa: S311  not a secret
        if all(_is_free(first + offset) for offset in range(length)):
            return first
    first, end = PORT_RANGE
    raise NoFreePorts(f"no {length} consecutive ports from {first} to {end} are free: stop what listens on them")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
