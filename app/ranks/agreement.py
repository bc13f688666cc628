"""What a node says of itself when nodes meet: its machine, and the settings that have to be the same on all of them."""

import os
import socket
from importlib import metadata

from app.ranks.devices import Allotment
from app.settings.declaration import EngineSettings, Settings
from engines.contract.node_protocol import NodeFacts, as_agreed

ENGINES = ("vllm", "vllm-cpu", "torch")
NAMES = (
    "model",
    "engine",
    "dp_size",
    "tp_size",
    "executor",
    "node_size",
    "expert_parallel",
    "ranks_per_gpu",
    "mps",
    "engine_args",
    "extra_args",
)


def agreed_settings(settings: Settings, device: str) -> dict[str, str]:
    """By name, as JSON."""
    values = {name: getattr(settings, name) for name in (*NAMES, *EngineSettings.model_fields)}
    if device == "cpu":
        values["cpu_kv_cache_gib"] = settings.cpu_kv_cache_gib
    return as_agreed(values | {"device": device}) | installed_engines()


def installed_engines() -> dict[str, str]:
    """The versions on this machine, by name, as JSON."""
    return as_agreed({f"the version of {name}": _version(name) for name in ENGINES})


def node_facts(allotment: Allotment) -> NodeFacts:
    """Of this machine, and of this process."""
    return NodeFacts(
        name=socket.gethostname(),
        pid=os.getpid(),
        device=allotment.device,
        cores=len(os.sched_getaffinity(0)),
        gpus=list(dict.fromkeys(gpu for share in allotment.shares for gpu in share.gpus)),
        shares=list(allotment.shares),
        spare=list(allotment.spare),
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
