"""What a rank is told, for the tests beside this file."""

from typing import Any

from engines.contract.spec import EngineKind, GroupKind, RankSpec


def rank_spec(**fields: Any) -> RankSpec:
    """The only rank of a service on a CPU, unless told otherwise."""
    told: dict[str, Any] = {
        "rank": 0,
        "incarnation": 1,
        "dp_size": 1,
        "tp_size": 1,
        "engine": EngineKind.VLLM,
        "group_kind": GroupKind.REPLICAS,
        "expert_parallel": False,
        "model": "played",
        "device": "cpu",
    }
    return RankSpec(**told | fields)
