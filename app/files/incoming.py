"""A file that comes in: into the journal piece by piece, so that no more than some pieces of it are in memory."""

import time

from app.errors import TooLarge
from app.files.names import BATCH, new_file_id
from app.journal.files import JournalFiles
from app.journal.keeper import JournalKeeper
from app.journal.records import FileSealing, NewFile, StoredFile
from app.settings.declaration import Settings

PIECE_BYTES = 256 * 1024
WRITE_BYTES = 4 * PIECE_BYTES  # of one write: each waits for a commit
HELD_BYTES = 2 * WRITE_BYTES + 2 * PIECE_BYTES  # of memory at most, for one file


class IncomingFile:
    """Made by `begin`. Ended by `seal`, or else by `discard`: nothing of it stays then."""

    def __init__(self, keeper: JournalKeeper, settings: Settings, ordinal: int, created_at: float) -> None:
        self._keeper = keeper
        self._settings = settings
        self._ordinal = ordinal
        self._created_at = created_at
        self._waiting = bytearray()
        self._size = 0

    @classmethod
    async def begin(cls, keeper: JournalKeeper, settings: Settings, tenant: str) -> "IncomingFile":
        """An empty one. Raises JournalError."""
        now = time.time()
        new = NewFile(id=new_file_id(), tenant=tenant, created_at=now, piece_bytes=PIECE_BYTES)
        return cls(keeper, settings, await keeper.journal.files.create(new), now)

    async def write(self, data: bytes) -> None:
        """More of its content. Raises TooLarge and JournalError."""
        limit = self._settings.max_file_bytes
        self._size += len(data)
        if self._size > limit:
            raise TooLarge(
                f"the file has more than {limit} bytes (--max-file-bytes): split it",
                param="file",
                code="file_too_large",
            )
        self._waiting += data
        if len(self._waiting) >= WRITE_BYTES:
            await self._store(len(self._waiting) // PIECE_BYTES * PIECE_BYTES)

    async def seal(self, purpose: str, filename: str, expires_after_s: float | None) -> StoredFile:
        """It is whole. A batch's input is kept as long as a batch, unless it has a time of its own. Raises
        JournalError; discard it then."""
        await self._store(len(self._waiting))
        kept_s = self._settings.retention if expires_after_s is None and purpose == BATCH else expires_after_s
        expires_at = None if kept_s is None else self._created_at + kept_s
        sealing = FileSealing(purpose=purpose, filename=filename, expires_at=expires_at)
        return await self._files.seal(self._ordinal, sealing)

    async def discard(self) -> None:
        """It is not wanted, or does not come."""
        await self._files.discard(self._ordinal)
        self._keeper.sweep_soon()

    async def _store(self, size: int) -> None:
        """The first `size` bytes that wait: whole pieces, or all of them."""
        if not size:
            return
        pieces = [bytes(self._waiting[start : start + PIECE_BYTES]) for start in range(0, size, PIECE_BYTES)]
        del self._waiting[:size]
        await self._files.append(self._ordinal, pieces)

    @property
    def _files(self) -> JournalFiles:
        return self._keeper.journal.files
