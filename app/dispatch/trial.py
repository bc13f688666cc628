"""Finding the items that crash an engine, with as few crashes as possible, and without failing any other.

When a group crashes, every item that its engines had been given is a suspect. They are tried again on one group that
runs nothing else meanwhile: first all together, for most crashes come from outside and cost no more than that. If it
crashes again, one of those that ran is to blame, and they are halved: when the first half crashes, it holds a culprit,
and when it passes, the second half does. An item that crashes in a round of its own is convicted; the last one left of
a larger round is tried alone first, for what crashed that may have come from outside, too. What was not run is tried
together afterwards, as at the beginning. For k culprits among N suspects that takes at most
k (ceil(log2 N) + 1) + 1 crashes, the first one counted in.
"""

from collections import OrderedDict
from collections.abc import Iterable, Set
from itertools import islice
from typing import TypeAlias

from app.dispatch.item import Item
from engines.contract.item_errors import ItemError, ItemErrorCode

Line: TypeAlias = "OrderedDict[Item, None]"  # items in order, any of which leaves at once: there may be 16,384 of them


def verdict(reason: str) -> ItemError:
    """What a culprit is told; `reason` is how its engine was lost."""
    return ItemError(
        ItemErrorCode.POISONED,
        f"its engine crashed with this item, at last when nothing else ran ({reason}): do not send it again",
    )


class Trial:
    """One cohort of suspects, of the group `origin` that crashed with them.

    The items of the current round are `waiting`, or `running` on the group that the trial is on.
    """

    def __init__(self, cohort: Iterable[Item], origin: int = 0, *, was_thinned: bool = False) -> None:
        self.origin = origin
        self.waiting: Line = OrderedDict.fromkeys(cohort)
        self._blamed: Line = OrderedDict()  # holds a culprit, if those that run now do not
        self._unknown: Line = OrderedDict()  # may hold culprits
        self.running: set[Item] = set()
        self._tried = 0  # in this round so far
        self.was_thinned = was_thinned  # somebody took back a suspect that had not been cleared
        self.is_explained = False  # whether its first crash has been put down to an item

    @property
    def is_over(self) -> bool:
        """Whether nobody is left to try."""
        return not (self.waiting or self.running)

    @property
    def suspects(self) -> int:
        """Items that have not been cleared yet."""
        return len(self._unknown) + len(self._blamed) + len(self.waiting) + len(self.running)

    @property
    def next(self) -> Item:
        """The one that `start` takes."""
        return next(iter(self.waiting))

    def start(self) -> Item:
        """Takes the next one of this round: it is on its way to a rank."""
        item, _ = self.waiting.popitem(last=False)
        self.running.add(item)
        self._tried += 1
        return item

    def clear(self, item: Item) -> None:
        """The item has its result, or nobody wants one any more."""
        self.running.discard(item)
        for line in (self.waiting, self._blamed, self._unknown):
            line.pop(item, None)
        if self.is_over:
            self._next_round()

    def take_back(self, item: Item) -> None:
        """Nobody wants the item any more. It does not run, and may have been the cause."""
        self.was_thinned = True
        self.clear(item)

    def retry(self, item: Item) -> None:
        """The rank gave the item up, and lives: it runs once more in this round."""
        self.running.discard(item)
        self.waiting[item] = None
        self._tried -= 1

    def crash(self, touched: Set[Item]) -> Item | None:
        """The group crashed in this round; `touched` are those that its engines had been given. Returns a culprit."""
        ran = self._take_running()
        suspects = [item for item in ran if item in touched]
        _put_first(self._unknown, [*(item for item in ran if item not in touched), *self.waiting, *self._blamed])
        self.waiting.clear()
        self._blamed.clear()
        culprit = suspects[0] if len(suspects) == 1 and self._tried == 1 else None
        if culprit is None:
            self._blamed.update(dict.fromkeys(suspects))
        self._next_round()
        return culprit

    def interrupt(self) -> None:
        """The group is gone by nobody's fault: this round runs again."""
        _put_first(self.waiting, self._take_running())
        self._tried = 0

    def _take_running(self) -> list[Item]:
        """In the order in which they were sent."""
        ran = sorted(self.running, key=lambda item: item.attempt)
        self.running.clear()
        return ran

    def _next_round(self) -> None:
        """The first half of those that are blamed; with nobody to blame, all that are unknown."""
        self._tried = 0
        if self._blamed:
            for item in list(islice(self._blamed, (len(self._blamed) + 1) // 2)):
                del self._blamed[item]
                self.waiting[item] = None
        else:
            self.waiting, self._unknown = self._unknown, self.waiting


def _put_first(line: Line, items: list[Item]) -> None:
    """Puts items before the others, in this order."""
    for item in reversed(items):
        line[item] = None
        line.move_to_end(item, last=False)
