"""How late the event loop is: whoever holds it, holds up every client and every rank."""

import asyncio
import time
from collections.abc import Callable

INTERVAL_S = 0.05


async def measure(observe: Callable[[float], None]) -> None:
    """Reports for ever, in seconds, by how much a short sleep was longer than it should have been."""
    while True:
        began = time.monotonic()
        await asyncio.sleep(INTERVAL_S)
        observe(max(0.0, time.monotonic() - began - INTERVAL_S))
