"""Work that goes on beside everything else: each task has a name and an owner, and its failure is noticed at once.

asyncio keeps a task's exception for whoever awaits it, and a task that works for as long as the process is awaited when
it is cancelled, if ever: until then nobody knows that it is no more. So tasks are started here and nowhere else, in the
gateway and in the ranks, and a test sees to that.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, ParamSpec, TypeVar

from engines import logs

logger = logs.get_logger("tasks")
T = TypeVar("T")
P = ParamSpec("P")
OnFailure = Callable[[str, BaseException], None]  # the work's name, and what it failed with


def start(work: Coroutine[Any, Any, T], name: str, on_failure: OnFailure) -> asyncio.Task[T]:
    """A task, which its owner keeps, and ends with `end`.

    Should it fail, that is logged, and `on_failure` does what has to follow: others wait for what the task was to do.
    """
    task = awaited(work, name)
    task.add_done_callback(partial(_notice, on_failure))
    return task


def awaited(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """A task that its owner awaits in any case, and whose failure is the owner's then."""
    return asyncio.create_task(work, name=name)


async def end(*tasks: asyncio.Task[Any] | None) -> None:  # Any: whatever they return is not wanted any more
    """Cancels tasks and returns when they have ended, however they do. May be called twice."""
    living = [task for task in tasks if task is not None]
    for task in living:
        task.cancel()
    await asyncio.gather(*living, return_exceptions=True)


async def comes_within(event: asyncio.Event, seconds: float) -> bool:
    """Whether an event comes before so many seconds are over. Returns as soon as that is known."""
    if event.is_set():
        return True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


def guarded(act: Callable[P, object], name: str, on_failure: OnFailure) -> Callable[P, None]:
    """A callback for the event loop, whose failure is noticed as a task's is."""

    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            act(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  the edge: the event loop would log it and go on
            _fail(name, error, on_failure)

    return run


def _notice(on_failure: OnFailure, task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _fail(task.get_name(), error, on_failure)


def _fail(name: str, error: BaseException, on_failure: OnFailure) -> None:
    logger.error("task_failed", task=name, exc_info=error)
    on_failure(name, error)
