"""Orders in which waiting items leave: as they came, the longest first, or those together that begin alike."""

import math
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from app.dispatch.lengths import Lengths
from app.dispatch.prefixes import Prefix

if TYPE_CHECKING:
    from app.dispatch.item import Item

CLASSES_PER_DOUBLING = 4  # of lengths: finer differences are not worth an order
MOST_BEGINNINGS = 32_768  # of one batch that are known: prompts that share nothing would fill the memory
COMMON_ITEMS = 256  # that have a beginning in common make no group if they are a large part of their batch
COMMON_PART = 4  # such a part
MOST_MOVED = 16  # items that are found to be shorter than thought, before one of them leaves all the same


class Order(Protocol):
    """Items that wait. `first` is there while there are any, and stays the same until something comes or leaves."""

    def __len__(self) -> int: ...
    def __iter__(self) -> "Iterator[Item]": ...
    def extend(self, items: "Iterable[Item]") -> None: ...
    def first(self) -> "Item": ...
    def pop(self) -> "Item": ...


class ByArrival:
    """First in, first out."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> "Iterator[Item]":
        return iter(self._items)

    def extend(self, items: "Iterable[Item]") -> None:
        """They leave after all others."""
        self._items.extend(items)

    def first(self) -> "Item":
        """Who leaves next."""
        return self._items[0]

    def pop(self) -> "Item":
        """It leaves."""
        return self._items.popleft()


class LongestFirst:
    """By the tokens that are expected of each item's longest answer; as they came where those are about equal."""

    def __init__(self, lengths: Lengths, items: "Iterable[Item]") -> None:
        self._lengths = lengths
        self._classes: dict[int, deque[Item]] = {}
        self._size = 0
        self._first: deque[Item] | None = None  # where the next one is the first
        self.extend(items)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> "Iterator[Item]":
        return (item for number in sorted(self._classes, reverse=True) for item in self._classes[number])

    def extend(self, items: "Iterable[Item]") -> None:
        """Each among those of its length."""
        for item in items:
            self._place(item, self._class_of(item))
            self._size += 1
        self._first = None

    def first(self) -> "Item":
        """One of the longest, as far as is known now: what has been learned since it came is looked up once more."""
        if self._first is None:
            self._first = self._find()
        return self._first[0]

    def pop(self) -> "Item":
        """It leaves."""
        self.first()
        items, self._first = self._first, None
        if items is None:
            raise IndexError("nothing waits")
        self._size -= 1
        item = items.popleft()
        self._classes = self._classes if items else {n: of_class for n, of_class in self._classes.items() if of_class}
        return item

    def _find(self) -> "deque[Item]":
        for _ in range(MOST_MOVED):
            longest = max(self._classes)
            items = self._classes[longest]
            now = self._class_of(items[0])
            if now >= longest:
                return items
            self._place(items.popleft(), now)
            if not items:
                del self._classes[longest]
        return self._classes[max(self._classes)]

    def _place(self, item: "Item", number: int) -> None:
        self._classes.setdefault(number, deque()).append(item)

    def _class_of(self, item: "Item") -> int:
        tokens = self._lengths.expected(item.prompt, item.max_tokens)
        return int(CLASSES_PER_DOUBLING * math.log2(tokens + 1))


class Together:
    """Items that begin alike leave together, to one rank: while it has its beginning in its cache.

    A rank is offered what begins as its last item did, then a beginning that no rank has had. Another rank's is what is
    left in the end. An instruction that most of a batch has in common is no reason: to compute it on each rank costs
    next to nothing for so many, and their order is worth more.
    """

    def __init__(self) -> None:
        self._new: list[Item] = []  # it is not known yet which of them begin alike
        self._counts: OrderedDict[Prefix, int] = OrderedDict()  # how many have come, the latest last
        self._groups: OrderedDict[Prefix, deque[Item]] = OrderedDict()
        self._untouched: OrderedDict[Prefix, None] = OrderedDict()  # those of them that no rank has had
        self._of_rank: dict[int, Prefix] = {}  # what each has had last
        self._size = 0
        self._come = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> "Iterator[Item]":
        yield from self._new
        for items in self._groups.values():
            yield from items

    def extend(self, items: "Iterable[Item]") -> None:
        """They have come."""
        for item in items:
            self._new.append(item)
            for prefix in item.prefixes:
                self._counts[prefix] = self._counts.pop(prefix, 0) + 1
            self._size += 1
            self._come += 1

    def sort_in(self) -> "list[Item]":
        """Looks which of the new ones begin alike. Those that make no group are returned, and are not here any more."""
        alone: list[Item] = []
        for item in self._new:
            shared = next((prefix for prefix in reversed(item.prefixes) if self._counts[prefix] > 1), None)
            if shared is None or self._is_common(shared):
                alone.append(item)
                continue
            if shared not in self._groups:
                self._groups[shared] = deque()
                if shared not in self._of_rank.values():
                    self._untouched[shared] = None
            self._groups[shared].append(item)
        self._new.clear()
        self._size -= len(alone)
        while len(self._counts) > MOST_BEGINNINGS:
            self._counts.popitem(last=False)
        return alone

    def _is_common(self, prefix: Prefix) -> bool:
        count = self._counts[prefix]
        return count >= COMMON_ITEMS and count * COMMON_PART >= self._come

    def own(self, rank: int | None) -> Prefix | None:
        """What this rank should go on with, or begin; without a rank, what any would."""
        last = self._of_rank.get(rank) if rank is not None else None
        if last in self._groups:
            return last
        return next(iter(self._untouched), None)

    def others(self) -> Prefix | None:
        """The group of another rank with the most items."""
        return max(self._groups, key=lambda prefix: len(self._groups[prefix]), default=None)

    def first(self, prefix: Prefix) -> "Item":
        """Of a group."""
        return self._groups[prefix][0]

    def pop(self, prefix: Prefix, rank: int | None) -> "Item":
        """It leaves, to this rank, which has the beginning from now on."""
        items = self._groups[prefix]
        item = items.popleft()
        if not items:
            del self._groups[prefix]
        self._untouched.pop(prefix, None)
        if rank is not None:
            self._of_rank[rank] = prefix
        self._size -= 1
        return item
