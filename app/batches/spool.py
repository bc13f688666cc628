"""The items of a batch whose body may be larger than memory: added as they come, and read back in windows."""

from collections.abc import Sequence

from app.batches.spool_space import SpoolAccount, disk_full
from app.batches.spool_store import SpoolStore
from app.journal.records import StoredItem

READ_ITEMS = 1000  # at once, of those that are read one by one
READ_BYTES = 256 * 1024


class Spool:
    """An ItemSource. One adds while another reads. What it takes counts for `account`; close both in the end."""

    def __init__(self, account: SpoolAccount) -> None:
        self.account = account
        space = account.space
        self._store = SpoolStore(space.folder, space.segment_bytes, account.give_back_items)
        self.count = 0  # items that have come
        self._ahead: tuple[int, list[bytes]] = 0, []  # what `body` has read: the first index, and bodies

    async def append(self, bodies: Sequence[bytes]) -> int:
        """The index of the first of them. Waits until there is room, which `window` makes.

        Raises TryLater for a full disk or no room, and TooLarge for what never fits.
        """
        await self.account.take(sum(map(len, bodies)))
        first = self._store.add(bodies)
        try:
            await self._store.write_out()
        except OSError as error:
            raise disk_full(error) from error
        self.count = first + len(bodies)
        return first

    async def window(self, after: int, limit: int, max_bytes: int) -> list[StoredItem]:
        """Items above this index that have come so far, at most `limit`; more than one only within `max_bytes`. There
        may be more behind them. What is not above it is let go. Raises OSError.

        Items come when their `append` returns: the run is told of them only then.
        """
        self._store.free(after + 1)
        if after + 1 >= self.count:
            return []
        bodies = await self._store.read(after + 1, min(limit, self.count - after - 1), max_bytes)
        return [StoredItem(index, body) for index, body in enumerate(bodies, after + 1)]

    def body(self, index: int) -> bytes:
        """Of one item that is not let go. Blocks: it is for those that never run, when the batch has ended. They are
        asked for in order. Raises OSError."""
        first, bodies = self._ahead
        if not first <= index < first + len(bodies):
            first, bodies = self._ahead = index, self._store.read_at_once(index, READ_ITEMS, READ_BYTES)
        return bodies[index - first]

    def close(self) -> None:
        """May be called twice."""
        self._store.close()
