"""The journal's files: what clients upload, in pieces, seen from when they are whole until they are deleted or expire.

A part of the journal, with its rules: see `journal.py` for what may be raised, and when something is durable.
"""

import contextlib
import time
from collections.abc import Sequence

from app.journal.errors import JournalUnavailable, NoSuchFile, Superseded
from app.journal.place import Place
from app.journal.records import FilePage, FileSealing, FilesWanted, NewFile, Quotas, StoredFile
from app.journal.sql import files
from app.journal.sql.store import Read
from app.journal.writer import Writer

EXPIRY_SLICE = 100  # files


class JournalFiles:
    """`ordinal` is what `create`, and later StoredFile, says of a file."""

    def __init__(self, place: Place, writer: Writer, read: Read, quotas: Quotas) -> None:
        self._place = place
        self._writer = writer
        self._read = read
        self._quotas = quotas
        self._abandoned: set[int] = set()

    # -- a file comes in

    async def create(self, new: NewFile) -> int:
        """A file that receives its content. Nobody sees it until it is sealed, and a restart removes it. Returns its
        ordinal. Raises QuotaExceeded."""
        return await self._writer.write(lambda db: files.create(db, new, self._quotas))

    async def append(self, ordinal: int, pieces: Sequence[bytes]) -> None:
        """Pieces behind those that are there: all of `piece_bytes`, but for the file's last one. Not to be tried again
        after JournalUnavailable: discard the file. Raises NoSuchFile, QuotaExceeded and DiskTooFull."""
        size = sum(map(len, pieces))
        await self._writer.write(lambda db: files.append(db, ordinal, pieces, self._quotas, self._place), size)

    async def seal(self, ordinal: int, sealing: FileSealing) -> StoredFile:
        """All of it is there. Raises NoSuchFile."""
        return await self._writer.write(lambda db: files.seal(db, ordinal, sealing))

    async def discard(self, ordinal: int) -> None:
        """One whose content does not come: it is gone now, or with the first `delete_expired` that the journal can
        do. Raises nothing of the journal's."""
        try:
            with contextlib.suppress(NoSuchFile, Superseded):
                await self.delete(ordinal)
        except JournalUnavailable:
            self._abandoned.add(ordinal)

    # -- it is asked for

    async def get(self, file_id: str, tenant: str | None) -> StoredFile | None:
        """A file of a tenant; None for the tenant is an admin, who sees all. None: there is none, or no such one of
        this tenant."""
        return await self._read(lambda db: files.of_id(db, file_id, tenant, time.time()))

    async def list(self, wanted: FilesWanted) -> FilePage:
        """Files by the time of their making."""
        return await self._read(lambda db: files.page(db, wanted, time.time()))

    async def pieces(self, ordinal: int, first: int, number: int) -> Sequence[bytes]:
        """So many pieces from one on, which must be there. Raises NoSuchFile when the file is gone."""
        return await self._read(lambda db: files.pieces(db, ordinal, first, number))

    # -- it goes

    async def delete(self, ordinal: int) -> None:
        """It is gone for everybody at once, and its quota is free. Its pieces go with `Journal.sweep`. Raises
        NoSuchFile."""
        await self._writer.write(lambda db: files.remove(db, ordinal))

    async def delete_expired(self) -> int:
        """Deletes all whose time is over, and what could not be discarded. Returns how many had expired."""
        for ordinal in tuple(self._abandoned):
            with contextlib.suppress(NoSuchFile):
                await self.delete(ordinal)
            self._abandoned.discard(ordinal)
        total = 0
        while found := await self._writer.write(lambda db: files.remove_expired(db, time.time(), EXPIRY_SLICE)):
            total += found
        return total
