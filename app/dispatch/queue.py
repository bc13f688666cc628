"""The items of one batch that wait, and the order in which they leave.

They leave as they have come, until the batch's end is near: then the longest leave first, for a long one that begins
last runs alone in the end. To do so from the beginning would gain no more, and would fill the ranks, and their caches,
with long items only. Where items that begin alike are to meet on one rank, that comes before either.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from app.dispatch.lengths import Lengths
from app.dispatch.orders import ByArrival, LongestFirst, Order, Together
from engines.contract.protocol import Outcome, Result

if TYPE_CHECKING:
    from app.dispatch.item import Item

MANY = 1 << 62
NEAR_END = 3  # times the work of the longest item on all sequences: so much is left when the end is near


class ItemQueue:
    """First in, first out, unless told otherwise; what has run and has to run again leaves before all others."""

    __slots__ = (
        "_again",
        "_first",
        "_least_tokens",
        "_most_tokens",
        "_order",
        "_size",
        "_together",
        "lengths",
        "tokens",
    )

    def __init__(self) -> None:
        self.lengths = Lengths()
        self._size = 0
        self.tokens = 0  # by the items' cost
        self._most_tokens = 0  # that an answer may have; the least of the one that may have fewest
        self._least_tokens = MANY
        self._first: Item | None = None  # for any rank, if it is known
        self._again: deque[Item] = deque()
        self._order: Order = ByArrival()
        self._together: Together | None = None

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> "Iterator[Item]":
        yield from self._again
        yield from self._order
        yield from self._together or ()

    def extend(self, items: "Sequence[Item]") -> None:
        """They have come."""
        self._first = None
        self._size += len(items)
        for item in items:
            self.tokens += item.cost
            self._most_tokens = max(self._most_tokens, item.max_tokens)
            self._least_tokens = min(self._least_tokens, item.max_tokens)
        if self._together is None:
            self._order.extend(items)
        else:
            self._order.extend(item for item in items if not item.prefixes)
            self._together.extend(item for item in items if item.prefixes)

    def put_first(self, item: "Item") -> None:
        """It has come back, and leaves next."""
        self._first = None
        self._size += 1
        self.tokens += item.cost
        self._again.appendleft(item)

    def clear(self) -> None:
        """Forgets all of them."""
        self._first = None
        self._size = self.tokens = 0
        self._again.clear()
        self._order = ByArrival()
        self._together = None if self._together is None else Together()

    def learn(self, item: "Item", result: Result) -> None:
        """An item that has left has this result: others may become as long."""
        if self._size and result.outcome is Outcome.OK:
            self.lengths.observe(item.prompt, result.completion_tokens / max(1, item.sequences))

    # -- the order

    @property
    def is_longest_first(self) -> bool:
        """Whether the end is near, and the longest leave first."""
        return isinstance(self._order, LongestFirst)

    @property
    def is_grouped(self) -> bool:
        """Whether what leaves next depends on the rank that it goes to."""
        return not self._again and bool(self._together)

    def keep_together(self) -> None:
        """Items that come from now on and begin alike are to meet on one rank."""
        if self._together is None:
            self._together = Together()

    def look_for_end(self, slots: int, has_time_for: Callable[[float], bool]) -> None:
        """The end may be near, with so many sequences at once: no more items are to come. `has_time_for` says whether
        there is time for so many steps: when it is not enough for all, those that have come first are to be done."""
        differ = self._least_tokens != self._most_tokens or self.lengths.differ
        if (
            differ
            and isinstance(self._order, ByArrival)
            and self.tokens <= NEAR_END * slots * self._most_tokens
            and has_time_for(self.tokens / slots + self._most_tokens)
        ):
            self._order = LongestFirst(self.lengths, self._order)
            self._first = None

    def first(self, rank: int | None = None) -> "Item":
        """Who leaves next, if it goes to this rank. There must be one."""
        if self._first is not None and (rank is None or not self.is_grouped):
            return self._first
        if self._again:
            first = self._again[0]
        else:
            group = self._group_for(rank)
            first = self._order.first() if group is None or self._together is None else self._together.first(group)
        if rank is None:
            self._first = first
        return first

    def pop(self, rank: int | None = None) -> "Item":
        """It leaves, to this rank."""
        self._first = None
        if self._again:
            item = self._again.popleft()
        else:
            group = self._group_for(rank)
            item = self._order.pop() if group is None or self._together is None else self._together.pop(group, rank)
        self._size -= 1
        self.tokens -= item.cost
        return item

    def _group_for(self, rank: int | None) -> int | None:
        """The group of items that begin alike whose turn it is; None when it is that of the others."""
        if not self._together:
            return None
        if alone := self._together.sort_in():
            self._order.extend(alone)
        return self._together.own(rank) or (None if len(self._order) else self._together.others())
