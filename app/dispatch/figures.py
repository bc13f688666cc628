"""What a dispatcher holds, for those who look."""

from app.dispatch.backlog import Backlog
from app.dispatch.credit import RankCredit
from app.dispatch.group import DispatchGroup
from app.dispatch.trials import Trials


class DispatchFigures:
    """The state that figures are made of. The dispatcher alone changes it."""

    def __init__(self, backlog: Backlog) -> None:
        self.backlog = backlog
        self._groups: dict[int, DispatchGroup] = {}  # those that are ready, by number
        self._ranks: dict[int, RankCredit] = {}  # theirs, by number
        self._trials = Trials()

    def held(self, rank: int) -> int:
        """Items that the rank holds now."""
        credit = self._ranks.get(rank)
        return len(credit.running) if credit else 0

    def credit(self, rank: int) -> int:
        """Sequences that the rank may take now."""
        credit = self._ranks.get(rank)
        return credit.credit if credit else 0

    def suspects(self, group: int) -> int:
        """Items on trial on the group that have not been cleared yet."""
        return self._trials.suspects(group)

    @property
    def takes_items(self) -> bool:
        """Whether any group does."""
        return any(group.takes_items for group in self._groups.values())

    @property
    def slots(self) -> int:
        """Sequences that all ranks together run at once."""
        return sum(rank.max_num_seqs for rank in self._ranks.values())

    @property
    def running_items(self) -> int:
        """Items on all ranks together."""
        return sum(len(rank.running) for rank in self._ranks.values())

    @property
    def outstanding_tokens(self) -> int:
        """Tokens that are waiting or running, by their cost."""
        return self.backlog.tokens + sum(rank.outstanding_tokens for rank in self._ranks.values())
