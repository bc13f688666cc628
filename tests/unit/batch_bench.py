"""A batch that keeps its results in memory, for the tests beside this file."""

from collections.abc import Callable
from typing import Any

from app.batches.memory import HeldBytes
from app.batches.record import BatchRecord
from app.batches.results_in_memory import ResultsInMemory
from app.batches.run import BatchRun
from app.dispatch.item import EVERYBODY, Item, Owner
from engines.contract.protocol import PromptKind

ROOMY = 2**40


def make_run(
    size: int,
    *,
    owner: Owner = EVERYBODY,
    priority: int = 0,
    on_done: Callable[[BatchRun[Any]], None] = lambda _: None,
) -> BatchRun[ResultsInMemory]:
    """A batch of so many items, none of which is made yet."""
    held = HeldBytes(ROOMY, lambda: 0.0)
    record = BatchRecord(size, "a-model", priority, owner)
    return BatchRun(record, ResultsInMemory(size, held.open()), on_done)


def make_items(run: BatchRun[Any], prompt_tokens: int = 1, max_tokens: int = 1) -> list[Item]:
    """All items of the batch."""
    run.items = [
        Item(run, run.flow, index, PromptKind.TEXT, b'"x"', b"p", prompt_tokens=prompt_tokens, max_tokens=max_tokens)
        for index in range(run.record.size)
    ]
    return run.items
