"""The engine's own word on a batch's sampling parameters, before the batch is taken in: one rank is asked."""

from hashlib import blake2b

from app.batches.asking import first_answer
from app.batches.availability import Availability
from app.errors import InvalidRequest
from app.ranks.fleet import Fleet
from app.ranks.rank import Rank
from engines.contract.item_errors import ItemError

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

        async def check(rank: Rank) -> ItemError | None:
            return await self._fleet.questions.check(rank.number, rank.incarnation, wire)

        refusal = await first_answer(self._fleet, self._availability, check, ASK_ANOTHER_S)
        if refusal is not None and refusal.code.retryable:
            raise self._availability.unavailable(refusal.message, str(refusal.code))
        if refusal is not None:
            raise InvalidRequest(refusal.message, param=refusal.param, code=str(refusal.code))
        if len(self._accepted) >= ACCEPTED_KEPT:
            self._accepted.clear()
        self._accepted.add(digest)
