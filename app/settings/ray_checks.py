"""What of the settings of ranks that Ray places contradicts itself, or this machine."""

import importlib.util
import math
import re
from collections.abc import Iterator

from app.settings.declaration import Settings, flag, label
from app.settings.nodes import NodeSettings
from app.settings.ray import RaySettings

CLIENT = "ray://"
WORDS = ("auto", "local")
ADDRESS = re.compile(r"(\[[0-9A-Fa-f:]+\]|[\w.-]+):(\d{1,5})")
BY_HAND = ("node_size", "node_rank", "node_keys_file")
LEAST_AMOUNT = 0.0001  # Ray counts in such steps: less is nothing
LAST_PORT = 65535


def ray_contradictions(settings: Settings) -> Iterator[str]:
    """A sentence for everything that does not go together. No I/O."""
    if settings.launcher != "ray":
        for name, field in RaySettings.model_fields.items():
            if getattr(settings, name) != field.default:
                launcher = f"{label('launcher')} is {settings.launcher}"
                yield f"{label(name)} is set, and {launcher}: say {flag('launcher')} ray"
        return
    for name in BY_HAND:
        if getattr(settings, name) != NodeSettings.model_fields[name].default:
            yield f"{label(name)} is set, and {label('launcher')} is ray, which finds the nodes itself: leave it out"
    if settings.dp_size is None:
        yield f"{label('dp_size')} is missing: say how many ranks Ray is to place"
    if not _is_address(settings.ray_address):
        problem = f"{label('ray_address')} is {settings.ray_address}"
        yield f"{problem}: it must be auto, local, HOST:PORT or ray://HOST:PORT, with a port from 1 to {LAST_PORT}"
    yield from _resource_problems(settings)


def _is_address(address: str) -> bool:
    if address in WORDS:
        return True
    found = ADDRESS.fullmatch(address.removeprefix(CLIENT))
    return found is not None and 1 <= int(found[2]) <= LAST_PORT


def _resource_problems(settings: Settings) -> Iterator[str]:
    for name, amount in settings.ray_resources.items():
        where = f"{name} in {label('ray_resources')}"
        if not name.strip():
            yield f"a name in {label('ray_resources')} is empty: name a resource of Ray's nodes, such as CPU"
        elif name == "GPU":
            yield f"{where} follows from {label('tp_size')} and {label('device')}: leave it out"
        elif name == "object_store_memory":  # Ray's nodes end when they get such a bundle back
            yield f"{where} is of no use, as nothing of Phalanx is in Ray's object store: leave it out"
        elif not _is_amount(amount):
            yield f"{where} is {amount}: it must be a number from {LEAST_AMOUNT} up"


def _is_amount(amount: object) -> bool:
    if not isinstance(amount, int | float) or isinstance(amount, bool):
        return False
    return math.isfinite(amount) and amount >= LEAST_AMOUNT


def ray_problems(settings: Settings) -> Iterator[str]:
    """A sentence for everything that this machine cannot fulfil. Ray is not imported for it."""
    if settings.launcher == "ray" and importlib.util.find_spec("ray") is None:
        yield f"{label('launcher')} is ray, which is not installed here: pip install 'phalanx[ray]'"
