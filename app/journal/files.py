"""The journal's files: what clients upload, in pieces, seen from when they are whole until they are deleted or expire.

A part of the journal, with its rules: see `journal.py` for what may be raised, and when something is durable.
"""

import contextlib
import time
from collections.abc import Mapping, Sequence

from app.journal.errors import JournalUnavailable, NoSuchFile, Superseded
from app.journal.place import Place
from app.journal.records import FilePage, FileSealing, FilesWanted, NewFile, NewOutput, Quotas, StoredBatch, StoredFile
from app.journal.sql import files, output_files
from app.journal.sql.store import Read
from app.journal.states import OutputKind
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

    # -- it is what has come of a batch

    async def begin_outputs(self, batch: StoredBatch, outputs: Sequence[NewOutput]) -> None:
        """Files whose lines are the batch's results: they grow with each that becomes durable, in their order. To be
        begun before the first result. They need no room beside the results, and go with the batch."""
        await self._writer.write(lambda db: output_files.create(db, batch, outputs, time.time()))

    async def drop_empty_outputs(self, batch: int) -> None:
        """The batch has ended: files of it that have no line are gone."""
        await self._writer.write(lambda db: output_files.remove(db, batch, only_empty=True))

    async def outputs(self, batch: int) -> Mapping[OutputKind, StoredFile]:
        """The batch's files as they are now, by what they hold."""
        return await self._read(lambda db: files.of_batch(db, batch))

    async def lines_at(self, file: StoredFile, start: int) -> bytes:
        """Some lines of such a file from a byte on, of which `start` may be in the middle; as many as a piece has, and
        one in any case. Raises NoSuchFile when the batch is gone."""
        return await self._read(lambda db: output_files.lines_at(db, file, start))

    async def start_of(self, file: StoredFile, line: int) -> int:
        """At which byte of such a file the line begins that has so many before it; its size where it has no more."""
        return await self._read(lambda db: output_files.start_of(db, file, line))

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
