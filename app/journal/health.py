"""Whether the journal takes writes, and who hears of that."""

from collections.abc import Callable
from enum import StrEnum


class Health(StrEnum):
    """Whether the journal takes writes."""

    AVAILABLE = "available"
    UNAVAILABLE = "unavailable"  # it goes on trying
    SUPERSEDED = "superseded"  # for good


OnHealth = Callable[[Health, str], None]  # with the reason, in words for everybody; called in the event loop
OnCommit = Callable[[float], None]  # with the seconds that it took; called in the thread that writes


def not_measured(_: float) -> None:
    """An OnCommit for those whom it does not concern."""
