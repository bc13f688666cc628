"""The items of a stored batch, read back in windows."""

from app.journal.journal import Journal
from app.journal.records import StoredItem


class JournalSource:
    """An ItemSource: what has a durable result does not come again."""

    def __init__(self, journal: Journal, ordinal: int) -> None:
        self._journal = journal
        self._ordinal = ordinal

    async def window(self, after: int, limit: int, max_bytes: int) -> list[StoredItem]:
        """Raises JournalUnavailable."""
        return await self._journal.unfinished_items(self._ordinal, after, limit, max_bytes)
