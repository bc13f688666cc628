"""What is told of dispatching to whoever counts it."""

from typing import Protocol

from app.ranks.events import Loss
from engines.contract.protocol import Result


class DispatchObserver(Protocol):
    """Who counts what is dispatched."""

    def results_taken(self, rank: int, results: list[Result], completed_tokens: int) -> None:
        """A rank has answered, and the items' owners know. The answered items cost so many tokens."""

    def group_lost(self, loss: Loss) -> None:
        """A group is gone."""
