"""The places of all groups of a gateway, by the groups' numbers."""

from collections.abc import Iterator, Sequence

from app.ranks.hosts.ray.placement import Placement


class PlacedGroups:
    """Groups come, and the last ones go, as ranks are scaled."""

    def __init__(self) -> None:
        self._placements: dict[int, Placement] = {}

    def __iter__(self) -> Iterator[Placement]:
        return iter(list(self._placements.values()))

    def add(self, placements: Sequence[Placement]) -> None:
        """These are to be placed, too."""
        self._placements |= {placement.group: placement for placement in placements}

    def pop(self, group: int) -> Placement | None:
        """It is not needed any more."""
        return self._placements.pop(group, None)

    @property
    def was_any_placed(self) -> bool:
        """Whether any of them ever had a place."""
        return any(placement.was_ever_placed for placement in self)

    def with_agent(self, ticket: str) -> tuple[Placement, int] | None:
        """Whose agent it is, and of which rank; None for one that has been replaced."""
        for placement in self:
            rank = placement.rank_of(ticket)
            if rank is not None:
                return placement, rank
        return None

    def waits_for(self) -> str | None:
        """Why some groups have no place, in words for everybody; None while all have one."""
        reasons: dict[str, list[int]] = {}
        for placement in self:
            if placement.waits_for is not None:
                reasons.setdefault(placement.waits_for, []).extend(placement.ranks)
        parts = [
            f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}: {reason}" for reason, ranks in reasons.items()
        ]
        return "; ".join(parts) or None
