"""Which of the ranks that can take an item gets it, and so which item of a batch leaves next."""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from itertools import chain, islice
from operator import attrgetter

from app.dispatch.credit import RankCredit
from app.dispatch.item import Item
from app.dispatch.prefixes import Prefix
from app.dispatch.queue import ItemQueue

MOST_HOMES = 16_384  # beginnings whose rank is remembered
HOME_LEAD = 8  # the part of a rank's sequences that one with the beginning may hold more than another

in_order = attrgetter("rank")
_load = attrgetter("outstanding_tokens")


class Dispatch(StrEnum):
    """The value of --dispatch."""

    ROUND_ROBIN = "round_robin"
    LEAST_LOADED = "least_loaded"  # by outstanding tokens
    PREFIX = "prefix"  # to the rank that has computed the prompt's beginning


class Placement(ABC):
    """Chooses a rank."""

    keeps_together = False  # whether items of a batch that begin alike are to leave together

    @abstractmethod
    def choose(self, ranks: Sequence[RankCredit], item: Item) -> RankCredit | None:
        """A rank that fits the item, or None when there is none now. Ranks are given in the order of their numbers."""

    def pick(self, ranks: Sequence[RankCredit], queue: ItemQueue) -> RankCredit | None:
        """The rank to which one of these items goes: the one that is the queue's first for that rank."""
        return self.choose(ranks, queue.first())


class RoundRobin(Placement):
    """The next rank in turn that fits."""

    def __init__(self) -> None:
        self._last = -1

    def choose(self, ranks: Sequence[RankCredit], item: Item) -> RankCredit | None:
        """The first fitting rank after the one chosen last, in the order of their numbers."""
        chosen = next((rank for rank in self._turns(ranks) if rank.fits(item)), None)
        if chosen is not None:
            self._last = chosen.rank
        return chosen

    def _turns(self, ranks: Sequence[RankCredit]) -> Iterator[RankCredit]:
        first = bisect_right(ranks, self._last, key=in_order)
        return chain(islice(ranks, first, None), islice(ranks, first))


class LeastLoaded(Placement):
    """The fitting rank with the fewest outstanding tokens."""

    def choose(self, ranks: Sequence[RankCredit], item: Item) -> RankCredit | None:
        """Ties go to the lower rank."""
        least = min(ranks, key=_load, default=None)
        if least is None or least.fits(item):  # nearly always, and far cheaper than to ask each
            return least
        return min((rank for rank in ranks if rank.fits(item)), key=_load, default=None)


class ByPrefix(RoundRobin):
    """In turn, but a prompt by itself goes where its beginning has been computed, if that rank holds no more than a bit
    more than the others; and of a batch, each rank gets the items that begin alike one after another."""

    keeps_together = True

    def __init__(self) -> None:
        super().__init__()
        self._homes: OrderedDict[Prefix, int] = OrderedDict()  # the latest last

    def pick(self, ranks: Sequence[RankCredit], queue: ItemQueue) -> RankCredit | None:
        """The next rank in turn that fits what the queue has for it."""
        if len(queue) == 1:
            return self.choose(ranks, queue.first())
        if not queue.is_grouped:
            return self._remembered(item := queue.first(), super().choose(ranks, item))
        for rank in self._turns(ranks):
            if rank.fits(item := queue.first(rank.rank)):
                self._last = rank.rank
                return self._remembered(item, rank)
        return None

    def choose(self, ranks: Sequence[RankCredit], item: Item) -> RankCredit | None:
        """The rank that has the longest beginning, or else the next in turn."""
        return self._remembered(item, self._home(ranks, item) or super().choose(ranks, item))

    def _home(self, ranks: Sequence[RankCredit], item: Item) -> RankCredit | None:
        known = next((prefix for prefix in reversed(item.prefixes) if prefix in self._homes), None)
        home = next((rank for rank in ranks if known and rank.rank == self._homes[known] and rank.fits(item)), None)
        if home is None:
            return None
        least = min(rank.held for rank in ranks)
        return home if home.held - least <= home.max_num_seqs / HOME_LEAD else None

    def _remembered(self, item: Item, rank: RankCredit | None) -> RankCredit | None:
        """The rank, which has the item's beginnings from now on."""
        if rank is None:
            return None
        for prefix in item.prefixes:
            self._homes[prefix] = rank.rank
            self._homes.move_to_end(prefix)
        while len(self._homes) > MOST_HOMES:
            self._homes.popitem(last=False)
        return rank


PLACEMENTS: dict[Dispatch, Callable[[], Placement]] = {
    Dispatch.ROUND_ROBIN: RoundRobin,
    Dispatch.LEAST_LOADED: LeastLoaded,
    Dispatch.PREFIX: ByPrefix,
}


def placement(dispatch: Dispatch) -> Placement:
    """The placement that --dispatch names."""
    return PLACEMENTS[dispatch]()
