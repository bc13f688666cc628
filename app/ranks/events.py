"""What happens to a group of ranks, as those hear of it who give the ranks work."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from engines.contract.protocol import Chunk, RankFacts, Result


class LossKind(StrEnum):
    """How a group was lost."""

    CANNOT_START = "cannot_start"  # it never became ready
    PORT_CLASH = "port_clash"  # nor then, but only because somebody else had taken one of its ports
    DIED = "died"  # a process of it ended, or said that its engine is dead
    STALLED = "stalled"  # it held work and made no step for too long
    NODE_LOST = "node_lost"  # with the node that one of its ranks ran on
    ENDED = "ended"  # an operator wanted it so


@dataclass(frozen=True)
class Loss:
    """The end of a group's life. `untouched` are attempts that no engine was given: they cannot have caused it."""

    kind: LossKind
    reason: str
    rank: int  # where it was noticed
    untouched: frozenset[int] = frozenset()
    is_explained: bool = False  # whether its reason is what a process gave up for, as its log says

    def reason_for(self, rank: int) -> str:
        """Why this rank of the group is lost."""
        return self.reason if rank == self.rank else f"its lock-step group lost rank {self.rank}: {self.reason}"

    @property
    def is_crash(self) -> bool:
        """Whether an item may be to blame."""
        return self.kind in (LossKind.DIED, LossKind.STALLED)


@dataclass(frozen=True)
class Member:
    """One rank of a group that is ready."""

    rank: int
    incarnation: int
    facts: RankFacts


@dataclass(frozen=True)
class Aftermath:
    """What a loss did to the items, and this group's crashes so far that items explain."""

    was_trial: bool = False  # it ended a trial's round, or would have begun one if anybody still wanted the suspects
    explained: int = 0


class GroupListener(Protocol):
    """Who wants to know what becomes of the groups."""

    def group_ready(self, group: int, members: list[Member], *, takes_items: bool) -> None:
        """All ranks of the group run items; one that takes none is given what is on trial there, and no more."""

    def group_draining(self, group: int) -> None:
        """The group takes no items any more, and finishes what it holds."""

    def results(self, rank: int, incarnation: int, results: list[Result]) -> None:
        """Attempts that ended."""

    def chunks(self, rank: int, incarnation: int, chunks: list[Chunk]) -> None:
        """What has come of attempts that stream."""

    def group_lost(self, group: int, loss: Loss) -> Aftermath:
        """The group takes nothing any more. What it held has to run again."""

    def group_given_up(self, group: int) -> None:
        """The group did not come back, or will not by itself, or waits for a node: others have to run what is on trial
        there."""

    def held(self, rank: int) -> int:
        """Items that the rank holds now."""

    def suspects(self, group: int) -> int:
        """Items on trial on the group, running or waiting for their turn."""
