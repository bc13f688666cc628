"""A batch that keeps its results in memory, for the tests beside this file."""

from collections.abc import Callable
from typing import Any, TypeVar

from app.batches.memory import HeldBytes
from app.batches.record import BatchRecord
from app.batches.results_in_memory import ResultsInMemory
from app.batches.run import BatchRun
from app.batches.sink import ResultSink
from app.dispatch.item import EVERYBODY, Item, Owner
from engines.contract.protocol import PromptKind

ROOMY = 2**40
SinkT = TypeVar("SinkT", bound=ResultSink)


def make_run(
    size: int,
    *,
    owner: Owner = EVERYBODY,
    priority: int = 0,
    on_done: Callable[[BatchRun[Any]], None] = lambda _: None,
) -> BatchRun[ResultsInMemory]:
    """A batch of so many items, none of which is made yet."""
    held = HeldBytes(ROOMY, lambda: 0.0)
    run = BatchRun(BatchRecord("a-model", priority, owner), ResultsInMemory(size, held.open()), on_done)
    return expecting(run, size)


def expecting(run: BatchRun[SinkT], size: int) -> BatchRun[SinkT]:
    """The run with so many items to come, and no more."""
    run.expect(size)
    run.complete()
    return run


def make_items(run: BatchRun[Any], prompt_tokens: int = 1, max_tokens: int = 1) -> list[Item]:
    """All items of the batch."""
    for index in range(run.total):
        run.take(index)
        run.add(
            Item(
                run, run.flow, index, PromptKind.TEXT, b'"x"', b"p", prompt_tokens=prompt_tokens, max_tokens=max_tokens
            )
        )
    return run.items
