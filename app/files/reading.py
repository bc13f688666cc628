"""The content of a stored file, or a part of it, read from the journal as it is sent."""

from collections.abc import AsyncIterator

from app.journal.files import JournalFiles
from app.journal.records import StoredFile

PIECES_AT_ONCE = 4


async def content(files: JournalFiles, file: StoredFile, start: int, stop: int) -> AsyncIterator[bytes]:
    """Its bytes from `start` to before `stop`, some hundreds of KiB at a time. Raises JournalUnavailable, and
    NoSuchFile when the file is deleted meanwhile."""
    if file.batch is not None:
        while start < stop:
            piece = (await files.lines_at(file, start))[: stop - start]
            start += len(piece)
            yield piece
        return
    size = file.piece_bytes
    last = (stop - 1) // size
    for first in range(start // size, last + 1, PIECES_AT_ONCE):
        number = min(PIECES_AT_ONCE, last + 1 - first)
        for place, piece in enumerate(await files.pieces(file.ordinal, first, number), first):
            offset = place * size
            yield piece[max(0, start - offset) : stop - offset]
