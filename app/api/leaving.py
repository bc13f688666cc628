"""Clients that leave before they have their answer."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, TypeVar

from starlette.types import Scope

from engines import tasks

LEAVING = "phalanx.leaving"  # in the ASGI scope
T = TypeVar("T")


class Leaving:
    """Whether the client of a request has gone, and who is to hear of it. The server puts it into the scope: a task
    that waits for the end of each connection would cost as much as an item."""

    def __init__(self) -> None:
        self.is_gone = False
        self._calls: dict[Callable[[], object], Context] = {}

    def tell(self) -> None:
        """It has gone. May be called twice."""
        if not self.is_gone:
            self.is_gone = True
            for call, context in self._calls.items():
                asyncio.get_running_loop().call_soon(call, context=context)

    def when_gone(self, call: Callable[[], object]) -> None:
        """Calls it then, from the event loop and as from here, so that the log names the request; soon, where the
        client has gone already."""
        self._calls[call] = copy_context()
        if self.is_gone:
            asyncio.get_running_loop().call_soon(call)

    def forget(self, call: Callable[[], object]) -> None:
        """It need not be called any more."""
        del self._calls[call]


def leaving_of(scope: Scope) -> Leaving:
    """That of the request."""
    leaving: Leaving = scope[LEAVING]
    return leaving


async def unless_gone(work: Coroutine[Any, Any, T], scope: Scope, name: str) -> T | None:  # Any: a coroutine's
    """What the work comes to, or raises what it raises; None when the client has gone before, which ends it."""
    leaving, working = leaving_of(scope), tasks.awaited(work, name)
    leaving.when_gone(working.cancel)
    try:
        await asyncio.wait((working,))
        return None if working.cancelled() else working.result()
    finally:
        leaving.forget(working.cancel)
        await tasks.end(working)
