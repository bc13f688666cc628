"""The trials of all groups: which one a group has to run, and where a trial goes when its group does not come back."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator

from app.dispatch.item import Flow, Item
from app.dispatch.trial import Trial


class Trials:
    """By group. A group runs its first one, and nothing else meanwhile."""

    def __init__(self) -> None:
        self._by_group: dict[int, deque[Trial]] = {}
        self.convicted = 0  # culprits found so far
        self._explained: Counter[int] = Counter()  # crashes of each group that were an item's fault, or may have been

    def current(self, group: int) -> Trial | None:
        """The trial that the group has to run."""
        trials = self._by_group.get(group)
        while trials and trials[0].is_over:
            over = trials.popleft()
            self._explained[over.origin] += over.is_unsolved
        if not trials:
            self._by_group.pop(group, None)
            return None
        return trials[0]

    def open(self, group: int, cohort: Iterable[Item]) -> None:
        """A cohort crashed the group: it is tried there, for the others serve on."""
        trial = Trial(cohort, group)
        for item in trial.waiting:
            item.trial = trial
        self._by_group.setdefault(group, deque()).append(trial)

    def convict(self, trial: Trial) -> None:
        """A culprit was found in it."""
        self.convicted += 1
        self._explained[trial.origin] += 1

    def explained(self, group: int) -> int:
        """Crashes of the group so far that say nothing against it: an item's fault, or of one that was taken back."""
        self.current(group)
        return self._explained[group]

    def move(self, group: int, to: int) -> None:
        """Another group has to run this group's trials: it does not come back."""
        moving = self._by_group.pop(group, None)
        if moving:
            self._by_group.setdefault(to, deque()).extend(moving)

    def discard(self, flow: Flow) -> Iterator[Item]:
        """Takes out what a flow has in any trial and does not run."""
        for trials in self._by_group.values():
            for trial in trials:
                yield from trial.discard(flow)

    def suspects(self, group: int) -> int:
        """Items on trial on the group that have not been cleared yet."""
        return sum(trial.suspects for trial in self._by_group.get(group, ()))
