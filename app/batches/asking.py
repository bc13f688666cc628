"""Asks the ranks that take items, one after the other until one answers: one that lets us wait may be frozen."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from app.batches.availability import Availability
from app.ranks.fleet import Fleet
from app.ranks.questions import NoAnswer
from app.ranks.rank import Rank
from engines import tasks

T = TypeVar("T")
Ask = Callable[[Rank], Coroutine[Any, Any, T]]  # Any: what a coroutine is sent, which is nothing


async def first_answer(fleet: Fleet, availability: Availability, ask: Ask[T], ask_another_s: float) -> T:
    """Of the first rank that answers; each has `ask_another_s` until the next one is asked, too.

    `ask` raises NoAnswer when its rank has none. Raises TryLater when no rank has.
    """
    reason = availability.reason
    waiting = deque(sorted(fleet.ranks_taking_items, key=lambda rank: -rank.heard_at))
    asked: set[asyncio.Task[T]] = set()
    try:
        while waiting or asked:
            if waiting:
                rank = waiting.popleft()
                if rank not in fleet.ranks_taking_items:
                    continue  # it was lost while another one was asked
                asked.add(tasks.awaited(ask(rank), f"question to rank {rank.number}"))
            done, asked = await asyncio.wait(
                asked, timeout=ask_another_s if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            answered = [task for task in done if not isinstance(task.exception(), NoAnswer)]
            if answered:
                return answered[0].result()
            reason = next((str(task.exception()) for task in done), reason)
    finally:
        await tasks.end(*asked)
    raise availability.unavailable(reason, "no_rank_ready")
