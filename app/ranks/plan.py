"""What is to be started: decided once, before any rank, from the settings and the model."""

import msgspec

from app.ranks.model import ModelFacts
from app.ranks.tuned import NOTHING, Taken
from app.settings.declaration import Settings, SettingsError, label
from app.settings.limits import parameter_limits
from engines.contract.protocol import PROTOCOL_VERSION, Hello, RankFacts
from engines.contract.spec import (
    EngineKind,
    ExecutorKind,
    GatewayAddress,
    GroupKind,
    LockstepAddress,
    RankSpec,
    RankVariables,
    Share,
)

CPU_PLUGIN = "phalanx_cpu_expert_parallel"  # its name among pyproject.toml's entry points
WITHHOLDING_PLUGIN = "phalanx_withhold_prompts"  # the same


class Plan(msgspec.Struct, frozen=True):
    """What all ranks have in common, and how they are grouped."""

    model: ModelFacts
    group_kind: GroupKind
    expert_parallel: bool
    device: str  # "cuda" or "cpu"
    dp_size: int  # ranks altogether
    tuned: Taken = NOTHING

    def group_of(self, rank: int) -> int:
        """The group that a rank belongs to."""
        return 0 if self.group_kind is GroupKind.LOCKSTEP else rank


def make_plan(settings: Settings, model: ModelFacts, device: str, dp_size: int, tuned: Taken = NOTHING) -> Plan:
    """Lock-step for a MoE model whose experts are spread over several ranks; replicas for everything else. Experts are
    not spread over ranks that share a GPU: NCCL wants one for each.

    What was measured to be faster is taken where the operator leaves it open.

    Raises SettingsError where the settings do not suit the model.
    """
    wanted = settings.expert_parallel if tuned.expert_parallel is None else tuned.expert_parallel
    expert_parallel = model.is_moe and wanted and settings.ranks_per_gpu == 1
    lockstep = expert_parallel and dp_size > 1
    if settings.executor is ExecutorKind.EXTERNAL_LAUNCHER and settings.tp_size == 1 and not lockstep:
        raise SettingsError(
            f"{label('executor')} is {settings.executor}, and each rank is one worker that works alone: raise "
            f"{label('tp_size')}, or leave it out"
        )
    kind = GroupKind.LOCKSTEP if lockstep else GroupKind.REPLICAS
    return Plan(model, kind, expert_parallel, device, dp_size, tuned)


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
        "reason": _why_so(settings, plan),
    }


def _why_so(settings: Settings, plan: Plan) -> str:
    """Of how the ranks are grouped."""
    if plan.group_kind is GroupKind.LOCKSTEP:
        return "the experts of a mixture of experts are spread over all ranks, which then step together"
    if not plan.model.is_moe:
        return "a dense model's ranks have nothing to do with each other"
    if plan.expert_parallel:
        return "one rank has all experts"
    if settings.ranks_per_gpu > 1:
        return "ranks that share a GPU each have all experts"
    return "phalanx tune found it faster" if settings.expert_parallel else f"{label('expert_parallel')} is false"


def foreign(rank: int, hello: Hello) -> str | None:
    """Why a rank does not understand this gateway; None where it does."""
    if hello.protocol == PROTOCOL_VERSION and hello.rank == rank:
        return None
    said = f"rank {rank} speaks protocol {hello.protocol} as rank {hello.rank}, the gateway {PROTOCOL_VERSION}"
    return f"{said}: two versions of Phalanx are installed, install one"


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
    address: GatewayAddress,
    share: Share,
    lockstep: LockstepAddress | None,
) -> RankSpec:
    """What one life of a rank is told, but for what its host alone knows."""
    return RankSpec(
        rank=rank,
        incarnation=incarnation,
        epoch=address.epoch,
        dp_size=plan.dp_size,
        tp_size=settings.tp_size,
        engine=settings.engine,
        executor=settings.executor,
        group_kind=plan.group_kind,
        expert_parallel=plan.expert_parallel,
        model=plan.model.model,
        served_as=settings.public_name,
        endpoint=address.endpoint,
        identity=address.identity,
        device=plan.device,
        gpus=list(share.gpus),
        ranks_per_gpu=share.ranks_per_gpu,
        mps=settings.mps and share.ranks_per_gpu > 1,
        lockstep=lockstep,
        engine_args={**plan.tuned.arguments, **settings.engine_arguments()},
        extra_args=list(settings.extra_args),
        limits=parameter_limits(settings),
        structure_cpu_s=settings.structure_cpu_s,
        stop_timeout_s=settings.stop_timeout_s,
        log_format="json" if settings.log_format == "json" else "console",  # a file is no terminal, and people read it
        log_prompts=settings.log_prompts,
        otlp_traces_endpoint=settings.otlp_traces_endpoint,
    )


def variables(settings: Settings, plan: Plan, share: Share, lockstep: LockstepAddress | None) -> RankVariables:
    """What makes a rank's environment this rank's."""
    found = dict(plan.tuned.variables)
    plugins = []
    if plan.device == "cuda":
        found["CUDA_VISIBLE_DEVICES"] = ",".join(share.gpus)
        found["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # NVML's order, in which the devices were counted
    elif settings.engine is EngineKind.VLLM:
        found["VLLM_CPU_KVCACHE_SPACE"] = str(settings.cpu_kv_cache_gib)
        if share.cores:
            found["VLLM_CPU_OMP_THREADS_BIND"] = share.cores
        if plan.expert_parallel and (plan.dp_size > 1 or settings.tp_size > 1):
            found["PHALANX_RANK_CPU_EXPERT_PARALLEL"] = "1"
            plugins.append(CPU_PLUGIN)
    if settings.engine is EngineKind.VLLM and not settings.log_prompts:
        found["PHALANX_RANK_WITHHOLD_PROMPTS"] = "1"
        plugins.append(WITHHOLDING_PLUGIN)
    if lockstep is not None:
        found["VLLM_DP_MASTER_IP"] = lockstep.host
        found["VLLM_DP_MASTER_PORT"] = str(lockstep.master_port)
    return RankVariables(found, plugins)
