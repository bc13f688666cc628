"""What of the settings of ranks that Ray places contradicts itself, or this machine."""

import importlib.util
import re
from collections.abc import Iterator

from app.settings.declaration import Settings, flag, label
from app.settings.nodes import NodeSettings
from app.settings.ray import RaySettings

CLIENT = "ray://"
WORDS = ("auto", "local")
ADDRESS = re.compile(r"(\[[0-9A-Fa-f:]+\]|[\w.-]+):\d{1,5}")
BY_HAND = ("node_size", "node_rank", "node_keys_file")
DECIDED_BY_US = ("GPU",)


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
    address = settings.ray_address
    if address not in WORDS and not ADDRESS.fullmatch(address.removeprefix(CLIENT)):
        yield f"{label('ray_address')} is {address}: it must be auto, local, HOST:PORT or ray://HOST:PORT"
    yield from _resource_problems(settings)


def _resource_problems(settings: Settings) -> Iterator[str]:
    for name, amount in settings.ray_resources.items():
        where = f"{name} in {label('ray_resources')}"
        if name in DECIDED_BY_US:
            yield f"{where} follows from {label('tp_size')} and {label('device')}: leave it out"
        elif not isinstance(amount, int | float) or isinstance(amount, bool) or amount <= 0:
            yield f"{where} is {amount}: it must be a number above 0"


def ray_problems(settings: Settings) -> Iterator[str]:
    """A sentence for everything that this machine cannot fulfil. Ray is not imported for it."""
    if settings.launcher == "ray" and importlib.util.find_spec("ray") is None:
        yield f"{label('launcher')} is ray, which is not installed here: pip install 'phalanx[ray]'"
