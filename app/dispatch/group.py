"""A group of ranks as the dispatcher knows it, from when it is ready until it is lost."""

from collections.abc import Sequence

from app.dispatch.credit import RankCredit
from app.dispatch.item import Item
from app.dispatch.trial import Trial


class DispatchGroup:
    """Ranks that live and die together. `is_held`: it takes nothing new but what is on trial there."""

    def __init__(self, number: int, ranks: Sequence[RankCredit], is_held: bool = False) -> None:
        self.number = number
        self.ranks = ranks
        self.is_held = is_held

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
