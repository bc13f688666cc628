"""The engine's own word on a batch's sampling parameters, before the batch is taken in: one rank is asked."""

import asyncio
from collections import deque
from hashlib import blake2b

from app.batches.availability import Availability
from app.errors import InvalidRequest
from app.ranks.fleet import Fleet
from app.ranks.questions import NoAnswer
from engines import tasks
from engines.contract.protocol import ItemError

ACCEPTED_KEPT = 4096
ASK_ANOTHER_S = 2.0  # an answer takes milliseconds, unless a structure has to be compiled


class EngineCheck:
    """Remembers what the engine has accepted, and asks once for equal parameters."""

    def __init__(self, fleet: Fleet, availability: Availability) -> None:
        self._fleet = fleet
        self._availability = availability
        self._accepted: set[bytes] = set()  # digests: parameters may be large, and are kept for long

    async def ask(self, wire: bytes) -> None:
        """Raises InvalidRequest for parameters that the engine refuses, TryLater when no rank answers."""
        digest = blake2b(wire, digest_size=16).digest()
        if digest in self._accepted:
            return
        refusal = await self._first_answer(wire)
        if refusal is not None and refusal.code.retryable:
            raise self._availability.unavailable(refusal.message, str(refusal.code))
        if refusal is not None:
            raise InvalidRequest(refusal.message, param=refusal.param, code=str(refusal.code))
        if len(self._accepted) >= ACCEPTED_KEPT:
            self._accepted.clear()
        self._accepted.add(digest)

    async def _first_answer(self, wire: bytes) -> ItemError | None:
        """Of the first rank that answers: one that lets us wait may be frozen."""
        reason = self._availability.reason
        waiting = deque(sorted(self._fleet.ranks_taking_items, key=lambda rank: -rank.heard_at))
        asked: set[asyncio.Task[ItemError | None]] = set()
        try:
            while waiting or asked:
                if waiting:
                    rank = waiting.popleft()
                    if rank not in self._fleet.ranks_taking_items:
                        continue  # it was lost while another one was asked
                    question = self._fleet.questions.check(rank.number, rank.incarnation, wire)
                    asked.add(tasks.awaited(question, f"check on rank {rank.number}"))
                done, asked = await asyncio.wait(
                    asked, timeout=ASK_ANOTHER_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                answered = [task for task in done if not isinstance(task.exception(), NoAnswer)]
                if answered:
                    return answered[0].result()
                reason = next((str(task.exception()) for task in done), reason)
        finally:
            await tasks.end(*asked)
        raise self._availability.unavailable(reason, "no_rank_ready")
