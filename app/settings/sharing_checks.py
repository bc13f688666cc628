"""What contradicts ranks that share a GPU."""

from collections.abc import Iterator

from app.settings.declaration import Settings, label
from engines.contract.spec import EngineKind


def sharing_contradictions(settings: Settings) -> Iterator[str]:
    """A sentence for everything that does not go together. No I/O."""
    many = settings.ranks_per_gpu
    if many == 1:
        if not settings.mps:
            yield f"{label('mps')} is no, and {label('ranks_per_gpu')} is 1: no ranks share a GPU; leave it out"
        return
    where = f"{label('ranks_per_gpu')} is {many}"
    if settings.tp_size > 1:
        yield f"{where}, and {label('tp_size')} is {settings.tp_size}: keep one of them"
    if settings.expert_parallel and "expert_parallel" in settings.model_fields_set:
        spread = "ranks whose experts are spread over them need a GPU each"
        yield f"{where}, and {label('expert_parallel')} is set: {spread}; keep one of them"
    if settings.launcher == "ray":
        yield f"{where}, and {label('launcher')} is ray, which gives each rank whole GPUs: keep one of them"
    if settings.engine is EngineKind.SIMULATED:
        yield f"{where}, and {label('engine')} is {settings.engine}, which has no GPUs: keep one of them"
    if settings.device == "cpu":
        yield f"{where}, and {label('device')} is cpu: keep one of them"
    ranks = settings.ranks_per_node
    if ranks is not None and ranks % many:
        of_machine = "" if settings.node_size == 1 else f", which is {ranks} a machine"
        yield f"{label('dp_size')} is {settings.dp_size}{of_machine}: with {where} it must be divisible by {many}"
    share = settings.engine_arguments().get("gpu_memory_utilization")
    if isinstance(share, int | float) and share * many > 1:
        yield (
            f"{label('gpu_memory_utilization')} is {share}, of each rank, and {where}: at most {1 / many:.2f} "
            "fits, and without it each rank takes its part"
        )
