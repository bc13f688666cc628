"""Clients that leave before they have their answer."""

from asyncio import FIRST_COMPLETED, wait
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from engines import tasks

T = TypeVar("T")


async def until_gone(receive: Receive) -> None:
    """Until the client has gone. The request's body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(work: Coroutine[Any, Any, T], receive: Receive, name: str) -> T | None:  # Any: a coroutine's
    """What the work comes to, or raises what it raises; None when the client has gone before, which ends it."""
    working = tasks.awaited(work, name)
    leaving = tasks.awaited(until_gone(receive), f"client of {name}")
    try:
        await wait((working, leaving), return_when=FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        await tasks.end(working, leaving)
