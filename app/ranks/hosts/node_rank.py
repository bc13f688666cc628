"""A rank on another node, as its agent tells of it: its processes, its pulse and its log."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from app.ranks.hosts.host import HostLost
from engines.contract.node_protocol import (
    ClearRank,
    EndRank,
    NodeMessage,
    PulseTaken,
    RankCleared,
    RankEnded,
    RankPrinted,
    RankStarted,
    TakePulse,
)
from engines.host.pulse import ProcessPulse

Tell = Callable[[NodeMessage], bool]


class NodeRank:
    """A HostedRank on a node."""

    def __init__(self, rank: int, incarnation: int, tell: Tell, register: "dict[tuple[int, int], NodeRank]") -> None:
        self._rank = rank
        self._incarnation = incarnation
        self._tell = tell
        self._register = register
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[int] = loop.create_future()
        self._cleared: asyncio.Future[None] = loop.create_future()
        self._is_cut = False
        self.pulse = ProcessPulse()  # as it was last seen
        register[rank, incarnation] = self

    async def wait(self) -> int:
        """Raises HostLost."""
        return await asyncio.shield(self._ended)

    def cut(self) -> None:
        """The agent lets go of its guardian's lifeline."""
        if not self._is_cut and not self._ended.done():
            self._is_cut = True
            self._tell(EndRank(rank=self._rank, incarnation=self._incarnation))

    async def end(self) -> None:
        """On a node that is lost, the agent sees to it."""
        self.cut()
        with contextlib.suppress(HostLost):
            await self.wait()

    async def clear_up(self) -> None:
        """The agent has nothing of it any more, or none of it is reachable."""
        try:
            if not self._cleared.done() and self._tell(ClearRank(rank=self._rank, incarnation=self._incarnation)):
                await asyncio.shield(self._cleared)
        except HostLost:
            pass
        finally:
            self.forget()

    def hear(self, message: RankStarted | RankEnded | RankCleared | PulseTaken) -> None:
        """What the agent says of it."""
        match message:
            case RankStarted(error=None):
                _settle(self.started, None)
            case RankStarted():
                _fail(self.started, OSError(message.error))
            case RankEnded():
                _settle(self._ended, message.exit_code)
            case RankCleared():
                _settle(self._cleared, None)
            case PulseTaken():
                self.pulse = ProcessPulse(message.stopped, message.is_asleep)

    def lose(self, reason: str) -> None:
        """Its node is lost."""
        for future in (self.started, self._ended, self._cleared):
            _fail(future, HostLost(reason))

    def forget(self) -> None:
        """Nobody asks for it any more."""
        self._register.pop((self._rank, self._incarnation), None)


def _settle(future: "asyncio.Future[Any]", value: object) -> None:  # Any: of three kinds
    if not future.done():
        future.set_result(value)


def _fail(future: "asyncio.Future[Any]", error: OSError) -> None:  # Any: the same
    if not future.done():
        future.set_exception(error)
        future.exception()  # seen, also where nobody waits for it


class NodePulseReader:
    """A ProcessPulseReader that answers with what the agent said last, and asks it to look again."""

    def __init__(self, ranks: "Mapping[tuple[int, int], NodeRank]", tell: Tell) -> None:
        self._ranks = ranks
        self._tell = tell
        self._got_on = True

    def got_on(self) -> None:
        """What was seen before counts no more."""
        self._got_on = True

    def look(self, title: str, pid: int | None, engine: Mapping[str, int]) -> ProcessPulse:
        """As the agent saw it a second ago; nothing at the first look."""
        number = int(title.rpartition(" ")[2])
        key = max((key for key in self._ranks if key[0] == number), default=None)
        if key is None:
            return ProcessPulse()
        if self._got_on:
            self._ranks[key].pulse = ProcessPulse()
        self._tell(
            TakePulse(rank=key[0], incarnation=key[1], got_on=self._got_on, title=title, pid=pid, engine=dict(engine))
        )
        self._got_on = False
        return self._ranks[key].pulse


class NodeLog:
    """A RankLogView of what the agent has sent of a log."""

    def __init__(self) -> None:
        self.path = ""
        self._end = ""

    def take(self, message: RankPrinted) -> None:
        """There is more of it."""
        self.path, self._end = message.path, message.end

    def end(self, size_bytes: int) -> str:
        """The end of what was sent."""
        return self._end.encode()[-size_bytes:].decode("utf-8", "replace")
