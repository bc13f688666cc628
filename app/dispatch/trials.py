"""The trials of all groups: what a crash says about the items that ran, which trial a group has to run, and where a
trial goes when its group does not come back."""

from collections import Counter, deque
from dataclasses import dataclass

from app.dispatch.item import Flow, Item, ItemState
from app.dispatch.trial import Trial
from app.ranks.events import Loss


@dataclass(frozen=True)
class Judgement:
    """What the loss of a group says about the items that ran there."""

    culprit: Item | None = None
    was_trial: bool = False  # it ended a trial's round, or would have begun a trial if anybody wanted the suspects


class Trials:
    """By group. A group runs its first one, and nothing else meanwhile."""

    def __init__(self) -> None:
        self._by_group: dict[int, deque[Trial]] = {}
        self._explained: Counter[int] = Counter()  # crashes of each group that were an item's fault, or may have been

    def __bool__(self) -> bool:
        """Whether there may be any."""
        return bool(self._by_group)

    def current(self, group: int) -> Trial | None:
        """The trial that the group has to run."""
        trials = self._by_group.get(group)
        while trials and trials[0].is_over:
            over = trials.popleft()
            if over.was_thinned:
                self._explain(over)
        if not trials:
            self._by_group.pop(group, None)
            return None
        return trials[0]

    def judge(self, group: int, loss: Loss, attempts: list[Item]) -> Judgement:
        """The group was lost with these. The suspects among them are on trial from now on, if they were not already.

        What nobody wants any more is judged like the rest, for it may have been the cause.
        """
        trial = self.current(group)
        if trial is not None and not trial.running:
            trial = None  # its turn had not come
        if not loss.is_crash:
            if trial is not None:
                trial.interrupt()
            return Judgement()
        touched = {item for item in attempts if item.attempt not in loss.untouched}
        if trial is None:
            return self._accuse(group, [item for item in attempts if item in touched])
        culprit = trial.crash(touched)
        if culprit is not None:
            self._explain(trial)
        return Judgement(culprit, was_trial=True)

    def release(self, item: Item) -> None:
        """The item has its result, or nobody wants one any more: it is no suspect now."""
        if item.trial is not None:
            item.trial.clear(item)
            self._forget(item)

    def take_back(self, flow: Flow) -> list[Item]:
        """Takes out what a flow has in any trial and does not run. What it runs there may still be a culprit."""
        dropped = []
        for item in list(flow.suspects):
            if item.trial is None:
                continue
            if item.state is ItemState.RUNNING:
                item.trial.was_thinned = True
            elif item.state is ItemState.WAITING:
                item.trial.take_back(item)
                self._forget(item)
                dropped.append(item)
        return dropped

    def explained(self, group: int) -> int:
        """Crashes of the group so far that say nothing against it: an item's fault, or of one that was taken back."""
        self.current(group)
        return self._explained[group]

    def move(self, group: int, to: int) -> None:
        """Another group has to run this group's trials: it does not come back."""
        moving = self._by_group.pop(group, None)
        if moving:
            self._by_group.setdefault(to, deque()).extend(moving)

    def suspects(self, group: int) -> int:
        """Items on trial on the group that have not been cleared yet."""
        return sum(trial.suspects for trial in self._by_group.get(group, ()))

    def _accuse(self, group: int, touched: list[Item]) -> Judgement:
        """A cohort crashed the group: it is tried there, for the others serve on."""
        cohort = [item for item in touched if item.state is ItemState.RUNNING]
        is_thinned = len(cohort) < len(touched)
        if not cohort:
            return Judgement(was_trial=is_thinned)
        trial = Trial(cohort, group, was_thinned=is_thinned)
        for item in cohort:
            item.trial = trial
            item.flow.suspects.add(item)
        self._by_group.setdefault(group, deque()).append(trial)
        return Judgement()

    def _explain(self, trial: Trial) -> None:
        """An item is at fault, or may be: that explains the one crash that began the trial."""
        if not trial.is_explained:
            trial.is_explained = True
            self._explained[trial.origin] += 1

    @staticmethod
    def _forget(item: Item) -> None:
        item.trial = None
        item.flow.suspects.discard(item)
