"""Finding the items that crash an engine, with as few crashes as possible, and without failing any other.

When a group crashes, every item that its engines had been given is a suspect. They are tried again on one group that
runs nothing else meanwhile: first all together, for most crashes come from outside and cost no more than that. If it
crashes again, one of those that ran is to blame, and they are halved: when the first half crashes, it holds a culprit,
and when it passes, the second half does. An item that crashes in a round of its own is convicted; the last one left of
a larger round is tried alone first, for what crashed that may have come from outside, too. What was not run is tried
together afterwards, as at the beginning. For k culprits among N suspects that takes at most
k (ceil(log2 N) + 1) + 1 crashes, the first one counted in.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable

from app.dispatch.item import Flow, Item
from engines.contract.protocol import ItemError, ItemErrorCode


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

    def __init__(self, cohort: Iterable[Item], origin: int = 0) -> None:
        self.origin = origin
        self._unknown = list(cohort)  # may hold culprits
        self._blamed: list[Item] = []  # holds one, if those that run now do not
        self.waiting: deque[Item] = deque()
        self.running: set[Item] = set()
        self._tried = 0  # in this round so far
        self._has_convicted = False
        self.was_thinned = False  # somebody took back a suspect that had not been cleared
        self._begin_round()

    @property
    def is_over(self) -> bool:
        """Whether nobody is left to try."""
        return not (self.waiting or self.running)

    @property
    def is_unsolved(self) -> bool:
        """Whether the cause may have been a suspect that was taken back."""
        return self.was_thinned and not self._has_convicted

    @property
    def suspects(self) -> int:
        """Items that have not been cleared yet."""
        return len(self._unknown) + len(self._blamed) + len(self.waiting) + len(self.running)

    def start(self) -> Item:
        """Takes the next one of this round: it is on its way to a rank."""
        item = self.waiting.popleft()
        self.running.add(item)
        self._tried += 1
        return item

    def clear(self, item: Item) -> None:
        """The item has its result, or nobody wants one any more."""
        if item in self.running:
            self.running.discard(item)
        else:
            self._remove(lambda other: other is item)
        if self.is_over:
            self._next_round()

    def retry(self, item: Item) -> None:
        """The rank gave the item up, and lives: it runs once more in this round."""
        self.running.discard(item)
        self.waiting.append(item)
        self._tried -= 1

    def crash(self, touched: Collection[Item]) -> Item | None:
        """The group crashed in this round; `touched` are those that its engines had been given. Returns a culprit."""
        suspects = [item for item in self.running if item in touched]
        suspects.sort(key=lambda item: item.attempt)
        spared = [item for item in self.running if item not in touched]
        self._unknown = [*spared, *self.waiting, *self._blamed, *self._unknown]
        self._blamed = []
        self.waiting.clear()
        self.running.clear()
        culprit = suspects[0] if len(suspects) == 1 and self._tried == 1 else None
        if culprit is None:
            self._blamed = suspects
        else:
            self._has_convicted = True
        self._next_round()
        return culprit

    def interrupt(self) -> None:
        """The group is gone by nobody's fault: this round runs again."""
        self.waiting.extendleft(sorted(self.running, key=lambda item: -item.attempt))
        self.running.clear()
        self._tried = 0

    def discard(self, flow: Flow) -> list[Item]:
        """Takes out what a flow has here and does not run."""
        dropped = [item for item in (*self.waiting, *self._blamed, *self._unknown) if item.flow is flow]
        if dropped:
            self.was_thinned = True
            self._remove(lambda item: item.flow is flow)
            if self.is_over:
                self._next_round()
        return dropped

    def _remove(self, unwanted: Callable[[Item], bool]) -> None:
        self.waiting = deque(item for item in self.waiting if not unwanted(item))
        self._blamed = [item for item in self._blamed if not unwanted(item)]
        self._unknown = [item for item in self._unknown if not unwanted(item)]

    def _next_round(self) -> None:
        """The first half of those that are blamed; with nobody to blame, all that are unknown."""
        self._tried = 0
        if len(self._blamed) > 1:
            half = (len(self._blamed) + 1) // 2
            self.waiting.extend(self._blamed[:half])
            self._blamed = self._blamed[half:]
        elif self._blamed:
            self.waiting.extend(self._blamed)
            self._blamed = []
        else:
            self._begin_round()

    def _begin_round(self) -> None:
        self.waiting.extend(self._unknown)
        self._unknown = []
