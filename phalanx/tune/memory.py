"""How much memory ranks have: that of their GPUs which is in use, or where there are none that of their processes."""

from collections.abc import Iterable
from typing import Any

from engines.host.gpu_memory import used_bytes
from engines.host.processes import resident_bytes


def memory_bytes(ranks: Iterable[dict[str, Any]]) -> int | None:  # Any: the gateway's JSON
    """Of all of these ranks together; None where it cannot be told."""
    ranks = list(ranks)
    gpus = sorted({gpu for rank in ranks for gpu in rank["gpus"]})
    try:
        if gpus:
            return sum(used_bytes(gpus))
        return sum(resident_bytes(rank["pid"]) for rank in ranks if rank["pid"]) or None
    except OSError:
        return None
