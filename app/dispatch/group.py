"""A group of ranks as the dispatcher knows it, from when it is ready until it is lost."""

from collections.abc import Sequence

from app.dispatch.credit import RankCredit
from app.dispatch.item import Item
from app.dispatch.trial import Trial


class DispatchGroup:
    """Ranks that live and die together. One that does not take items is given what is on trial there, and no more."""

    def __init__(self, number: int, ranks: Sequence[RankCredit], takes_items: bool = True) -> None:
        self.number = number
        self.ranks = ranks
        self.takes_items = takes_items

    @property
    def held(self) -> int:
        """Items that it runs."""
        return sum(len(rank.running) for rank in self.ranks)

    def runs_only(self, trial: Trial) -> bool:
        """Whether nothing runs here but this trial's items."""
        return self.held == len(trial.running)

    def give_back_all(self) -> list[Item]:
        """Takes everything from its ranks, in the order in which it was sent."""
        items = [item for rank in self.ranks for item in rank.give_back_all()]
        return sorted(items, key=lambda item: item.attempt)
