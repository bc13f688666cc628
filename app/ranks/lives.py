"""One life of each rank of a group: begun together, played side by side, cleared up behind together."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from app.ranks.group_environment import GroupEnvironment
from app.ranks.incarnation import Incarnation
from app.ranks.rank import Rank
from engines.contract.protocol import Message


class Lives:
    """The present lives of these ranks; none between two."""

    def __init__(self, ranks: Sequence[Rank], environment: GroupEnvironment) -> None:
        self._ranks = ranks
        self._environment = environment
        self._present: dict[int, Incarnation] = {}
        self._past: list[Incarnation] = []

    async def begin(self) -> None:
        """Nothing runs yet, but all that it takes is there. Raises OSError."""
        around = self._environment
        for rank in self._ranks:
            host = around.host_of(rank.number)
            rank.begin(host.new_log(rank.number), host.share(rank.number))
        around.open_hosts(self._ranks)
        await around.take_memory_baseline(self._ranks)
        lockstep = await around.lockstep_address(self._ranks)
        self._present = {
            rank.number: Incarnation(rank, around.host_of(rank.number), around.settings, around.plan, lockstep)
            for rank in self._ranks
        }

    async def play(self, play: Callable[[Incarnation], Coroutine[Any, Any, None]]) -> None:  # Any: as for asyncio
        """All of them to their end."""
        self._past = list(self._present.values())
        try:
            async with asyncio.TaskGroup() as playing:
                for life in self._past:
                    playing.create_task(play(life), name=str(life))
        finally:
            self._present.clear()

    async def clear_up(self) -> None:
        """Returns once nothing of them is left on their hosts."""
        await asyncio.gather(*(life.clear_up() for life in self._past))

    def send(self, rank: int, message: Message) -> None:
        """A message to one of the ranks; dropped when that is gone."""
        if rank in self._present:
            self._present[rank].send(message)

    def cut(self) -> None:
        """Ends all their processes without asking."""
        for life in self._present.values():
            life.cut()

    async def stop(self) -> None:
        """Asks those that serve to stop, and ends the others."""
        await asyncio.gather(*(life.stop() for life in list(self._present.values())))
