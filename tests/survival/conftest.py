"""How long a cold start of two expert-parallel ranks takes."""

import statistics
import time
from pathlib import Path

import pytest

from tests.service import serving

COLD_STARTS = 3


@pytest.fixture(scope="session")
def cold_start_s(moe_model: Path) -> float:
    """The median of three, from the command to ready."""
    taken = []
    for _ in range(COLD_STARTS):
        began = time.monotonic()
        with serving(str(moe_model), engine="vllm"):
            taken.append(time.monotonic() - began)
    print(f"cold starts: {', '.join(f'{s:.1f} s' for s in taken)}")  # noqa: T201  for the record
    return statistics.median(taken)
