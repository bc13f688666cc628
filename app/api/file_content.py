"""The answer with a file's content: all of it, the bytes that are asked for, or the lines from one on.

The files of a batch that runs are read, too: the answer says that more is to come, and where to go on.
"""

from urllib.parse import quote

from fastapi.responses import Response

from app.api.byte_range import ByteRange, asked_range
from app.api.piped_response import PipedResponse
from app.errors import InvalidRequest
from app.files.reading import content
from app.journal.journal import Journal
from app.journal.records import StoredFile
from app.journal.states import ENDED

LINES, BYTES = "application/jsonl", "application/octet-stream"
INCOMPLETE, LAST_LINE = "x-incomplete", "x-last-line"


async def content_of(
    journal: Journal, stored: StoredFile, offset: int | None, asked: str | None, if_range: str | None
) -> Response:
    """`asked` and `if_range` are headers, and `offset` is how many lines to leave out. Raises InvalidRequest,
    RangeNotSatisfiable and JournalError."""
    headers: dict[str, str] = {}
    if stored.batch is not None:
        batch = await journal.of_ordinal(stored.batch)
        # Looked at again: it may have got its last lines just before its batch ended.
        stored = await journal.files.get(stored.id, None) or stored
        headers = {INCOMPLETE: str(batch.state not in ENDED).lower(), LAST_LINE: str(stored.lines)}
    tag = f'"{stored.id}-{stored.size}"'  # what is there never changes
    if offset is None:
        wanted = asked_range(asked if if_range in (None, tag) else None, stored.size)
    else:
        wanted = await _from_line(journal, stored, offset, asked)
    headers |= wanted.headers | {"etag": tag}
    headers["content-disposition"] = f"attachment; filename*=UTF-8''{quote(stored.filename, safe='')}"
    pieces = content(journal.files, stored, wanted.start, wanted.stop)
    media_type = LINES if stored.filename.endswith(".jsonl") else BYTES
    return PipedResponse(pieces, media_type, status=wanted.status, headers=headers)


async def _from_line(journal: Journal, stored: StoredFile, offset: int, asked: str | None) -> ByteRange:
    if stored.batch is None:
        raise InvalidRequest(
            "offset counts the lines of a batch's output, and this file was uploaded: leave offset out, or ask for "
            "bytes with Range",
            param="offset",
        )
    if asked is not None:
        raise InvalidRequest("there is an offset, and a Range, too: leave one of them out", param="offset")
    return ByteRange(await journal.files.start_of(stored, offset), stored.size, stored.size)
