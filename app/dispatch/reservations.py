"""Large items that wait for one rank each.

An item that needs more than any rank has left would stop all of them if it waited at the head of the backlog: they
would run dry until one of them had room. So one rank is kept for it and gets nothing else meanwhile; the others go on.
"""

from collections.abc import Callable, Iterator, Sequence

from app.dispatch.backlog import Backlog
from app.dispatch.credit import RankCredit
from app.dispatch.item import Flow, Item


class Reservations:
    """At most one a rank. What waits here counts as waiting."""

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        self._items: dict[int, Item] = {}  # by the rank that is kept

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items.values())

    def serve(self, ranks: Sequence[RankCredit], assign: Callable[[Item, RankCredit], None]) -> list[RankCredit]:
        """Assigns what fits by now, and puts back what is kept on ranks that are not among these. Returns the ranks
        that are not kept for anything."""
        if not self._items:
            return list(ranks)
        there = {rank.rank: rank for rank in ranks}
        for number, item in list(self._items.items()):
            rank = there.get(number)
            if rank is None:
                self._put_back(number)
            elif rank.fits(item):
                del self._items[number]
                self._backlog.uncount(item)
                assign(item, rank)
        return [rank for rank in ranks if rank.rank not in self._items]

    def choose(self, ranks: Sequence[RankCredit], item: Item) -> RankCredit | None:
        """The rank to keep for an item that none of these can take. None when it is no larger than what they take
        otherwise, or no other rank would have anything of it."""
        able = [rank for rank in ranks if rank.credit]
        if not able or len(ranks) < 2 or all(rank.is_small(item) for rank in ranks):
            return None
        return min(ranks, key=lambda rank: rank.outstanding_tokens)

    def keep(self, rank: RankCredit, item: Item) -> None:
        """The item, taken from the backlog, waits for this rank."""
        self._items[rank.rank] = item
        self._backlog.count(item)

    def take_back(self, flow: Flow) -> list[Item]:
        """Takes out what a flow has here."""
        return [self._take(number) for number, item in list(self._items.items()) if item.flow is flow]

    def put_back(self, flow: Flow) -> None:
        """What a flow has here waits at its head again."""
        for number, item in list(self._items.items()):
            if item.flow is flow:
                self._put_back(number)

    def _put_back(self, number: int) -> None:
        self._backlog.put_back([self._take(number)])

    def _take(self, number: int) -> Item:
        item = self._items.pop(number)
        self._backlog.uncount(item)
        return item
