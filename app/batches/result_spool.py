"""Results that nobody reads yet, more than memory is for: first in, first out."""

from app.batches.spool_space import SpoolAccount
from app.batches.spool_store import SpoolStore

READ_LINES = 4096  # at once


class ResultSpool:
    """What it takes counts for `account`; close both in the end."""

    def __init__(self, account: SpoolAccount) -> None:
        self._account = account
        space = account.space
        self._store = SpoolStore(space.folder, space.segment_bytes, account.give_back_results)
        self._read = 0  # lines

    def __len__(self) -> int:
        """Lines that have not been read."""
        return self._store.count - self._read

    @property
    def memory_bytes(self) -> int:
        """What is not written yet."""
        return self._store.memory_bytes

    def append(self, line: bytes) -> None:
        """Does not block, and is never refused."""
        self._account.add_results(len(line))
        self._store.add((line,))

    async def write_out(self) -> None:
        """Writes what is worth a write by now. Raises OSError; all of it can still be read then."""
        await self._store.write_out()

    async def read(self, max_bytes: int) -> list[bytes]:
        """The oldest lines, which are forgotten: some, if there are any. Raises OSError."""
        first = self._read
        lines = await self._store.read(first, READ_LINES, max_bytes)
        self._read = max(self._read, first + len(lines))  # it may have been closed meanwhile
        self._store.free(self._read)
        return lines

    def end_body(self) -> None:
        """The client has sent all: it reads from now on."""
        self._account.end_body()

    def close(self) -> None:
        """What has not been read is forgotten. May be called twice."""
        self._read = self._store.count
        self._store.close()
