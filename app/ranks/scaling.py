"""More ranks than now, or fewer: the last ones are drained and removed, and new ones take items as they come up."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from app.logs import get_logger
from app.ranks.hosts.host import NoRoom
from app.ranks.hosts.hosts import Hosts
from app.ranks.plan import Plan
from app.ranks.rank import Rank
from engines import tasks
from engines.contract.spec import GroupKind

logger = get_logger("ranks")
MOST_RANKS = 1024


class NotScalable(Exception):
    """There cannot be so many ranks, at least not now. The message says why."""


class Scaled(msgspec.Struct, frozen=True, kw_only=True):
    """What is being done."""

    dp_size: int  # from now on
    was: int
    adding: list[int]  # ranks
    removing: list[int]


class Scalable(Protocol):
    """What has ranks."""

    plan: Plan | None
    ranks: list[Rank]


class Scaling:
    """One change after another: `removing` is under way until the last rank that is removed is gone."""

    def __init__(
        self,
        fleet: Scalable,
        hosts: Hosts,
        add: Callable[[Plan, Sequence[Rank]], None],
        remove: Callable[[Sequence[Rank]], Awaitable[None]],
        on_failure: tasks.OnFailure,
    ) -> None:
        self._fleet = fleet
        self._hosts = hosts
        self._add = add
        self._remove = remove
        self._on_failure = on_failure
        self.removing: asyncio.Task[None] | None = None

    def scale(self, dp_size: int) -> Scaled:
        """Begins it. Raises NotScalable, with nothing changed."""
        plan, was = self._fleet.plan, len(self._fleet.ranks)
        if plan is None:
            raise NotScalable("the ranks are not planned yet: try again in some seconds")
        if plan.group_kind is GroupKind.LOCKSTEP:
            raise NotScalable(
                f"the {was} ranks are one lock-step group, which has as many as it began with: start the service anew "
                "with another --dp-size, or with --no-expert-parallel as replicas"
            )
        if self.removing is not None and not self.removing.done():
            raise NotScalable("ranks are still being removed: try again when they are gone")
        adding, removing = list(range(was, dp_size)), list(range(dp_size, was))
        self._make_room(adding)
        self._fleet.plan = plan = msgspec.structs.replace(plan, dp_size=dp_size)
        if adding:
            self._add(plan, [Rank(number, number) for number in adding])
        elif removing:
            leaving = self._fleet.ranks[dp_size:]
            self.removing = tasks.start(self._leave(leaving), "remove ranks", self._on_failure)
        logger.info("ranks_scaled", dp_size=dp_size, was=was, adding=adding, removing=removing)
        return Scaled(dp_size=dp_size, was=was, adding=adding, removing=removing)

    async def _leave(self, ranks: Sequence[Rank]) -> None:
        await self._remove(ranks)
        logger.info("ranks_removed", ranks=[rank.number for rank in ranks])

    def _make_room(self, ranks: Sequence[int]) -> None:
        """For all of them, or for none."""
        made: list[int] = []
        try:
            for rank in ranks:
                self._hosts.make_room(rank)
                made.append(rank)
        except NoRoom as error:
            for rank in reversed(made):
                self._hosts.give_up(rank)
            raise NotScalable(f"{error}; say a smaller dp_size, or start the service on more nodes") from None
