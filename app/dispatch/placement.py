"""Which of the ranks that can take an item gets it."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

from app.dispatch.credit import RankCredit
from app.dispatch.item import Item


class Dispatch(StrEnum):
    """The value of --dispatch."""

    ROUND_ROBIN = "round_robin"
    LEAST_LOADED = "least_loaded"  # by outstanding tokens


class Placement(Protocol):
    """Chooses a rank for one item."""

    def choose(self, ranks: Sequence[RankCredit], item: Item) -> RankCredit | None:
        """A rank that fits the item, or None when there is none now."""


class RoundRobin:
    """The next rank in turn that fits."""

    def __init__(self) -> None:
        self._last = -1

    def choose(self, ranks: Sequence[RankCredit], item: Item) -> RankCredit | None:
        """The first fitting rank after the one chosen last, in the order of their numbers."""
        fitting = [rank for rank in ranks if rank.fits(item)]
        if not fitting:
            return None
        chosen = next((rank for rank in fitting if rank.rank > self._last), fitting[0])
        self._last = chosen.rank
        return chosen


class LeastLoaded:
    """The fitting rank with the fewest outstanding tokens."""

    def choose(self, ranks: Sequence[RankCredit], item: Item) -> RankCredit | None:
        """Ties go to the lower rank."""
        return min((rank for rank in ranks if rank.fits(item)), key=lambda rank: rank.outstanding_tokens, default=None)


def placement(dispatch: Dispatch) -> Placement:
    """The placement that --dispatch names."""
    return RoundRobin() if dispatch is Dispatch.ROUND_ROBIN else LeastLoaded()
