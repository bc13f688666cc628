"""The signals that ask a service to end."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ENDING = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def ending_signals(on_signal: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Inside, SIGTERM and SIGINT are told to `on_signal` on the running event loop, and end nothing by themselves."""
    loop = asyncio.get_running_loop()
    for number in ENDING:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number in ENDING:
            loop.remove_signal_handler(number)
