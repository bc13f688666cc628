"""``/v1/files``: OpenAI's Files API. What clients upload is kept in the journal, and given back whole or in parts."""

from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response

from app.api.auth import caller_of
from app.api.describing import Answers, Described, one_of
from app.api.file_content import BYTES, LINES, content_of
from app.api.state import gateway_of
from app.api.upload import AFTER_S, ANCHOR, CREATED_AT, FILE, LONGEST_S, PURPOSE, SHORTEST_S, receive
from app.errors import InvalidRequest, NotFound
from app.files.names import FILE_ID, PURPOSES, UPLOADED
from app.gateway import Gateway
from app.journal.records import FilesWanted, StoredFile
from app.logs import get_logger
from app.validation import short

logger = get_logger("files")
router = APIRouter()
MAX_PAGE = 10_000
MAX_OFFSET = 2**53
_encode = msgspec.json.Encoder().encode


class FileObject(msgspec.Struct, kw_only=True):
    """A file that is stored."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class FileList(msgspec.Struct, kw_only=True):
    """A page of files. `last_id` is the `after` of the next page."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(msgspec.Struct, kw_only=True):
    """What is left of a file that was deleted."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


FORM = {
    "type": "object",
    "required": [FILE, PURPOSE],
    "additionalProperties": False,
    "properties": {
        FILE: {"type": "string", "format": "binary", "description": "With a filename."},
        PURPOSE: one_of(UPLOADED),
        ANCHOR: {"const": CREATED_AT},
        AFTER_S: {"type": "integer", "minimum": SHORTEST_S, "maximum": LONGEST_S},
    },
    "dependentRequired": {ANCHOR: [AFTER_S], AFTER_S: [ANCHOR]},
}
SCHEMAS = (
    Described(
        FileObject,
        words={PURPOSE: one_of(PURPOSES)},
        notes={"expires_at": "Nobody sees it from then on; null: it is kept until somebody deletes it."},
    ),
    Described(FileList),
    Described(DeletedFile),
)
PATH = "/v1/files/{file_id}"
ANSWERS = {
    "POST /v1/files": Answers(FileObject.__name__, (403, 408, 413, 415, 503), takes_form=FORM),
    "GET /v1/files": Answers(FileList.__name__, (503,)),
    f"GET {PATH}": Answers(FileObject.__name__, (404, 503)),
    f"DELETE {PATH}": Answers(DeletedFile.__name__, (403, 404, 503)),
    f"{PATH}/content": Answers(None, (404, 416, 503), raw_types=(BYTES, LINES)),
}


@router.post("/v1/files", summary="Upload a file")
async def upload_file(request: Request) -> Response:
    """A form with the fields `file` and `purpose`. The answer comes when all of it is on disk.

    `purpose` is `batch` for the input of `/v1/batches`; files with another one are only kept. `expires_after[anchor]`
    is `created_at`, and `expires_after[seconds]` when the file expires, from an hour to 30 days. Without them, a file
    for a batch is kept as long as the service keeps batches, and any other until it is deleted.
    """
    stored = await receive(request, gateway_of(request))
    logger.info("file_stored", file=stored.id, purpose=stored.purpose, size=stored.size)
    return _json(_view(stored))


@router.get("/v1/files", summary="Files")
async def list_files(
    request: Request,
    purpose: Annotated[str | None, Query(json_schema_extra={"enum": [*PURPOSES, None]})] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = MAX_PAGE,
    order: Literal["asc", "desc"] = "desc",
    after: Annotated[str | None, Query(json_schema_extra={"pattern": f"^{FILE_ID.pattern}$"})] = None,
) -> Response:
    """By the time of their upload, the newest first unless `order` is `asc`; `after` is the id of the last one seen."""
    if purpose is not None and purpose not in PURPOSES:
        raise InvalidRequest(f"purpose is {short(purpose)!r}: it may be {', '.join(PURPOSES)}", param=PURPOSE)
    if after is not None and not FILE_ID.fullmatch(after):
        raise InvalidRequest(f"after is {short(after)!r}: it must be the id of a file", param="after")
    wanted = FilesWanted(
        tenant=caller_of(request).sees, purpose=purpose, after=after, limit=limit, is_newest_first=order == "desc"
    )
    page = await gateway_of(request).keeper.journal.files.list(wanted)
    views = [_view(stored) for stored in page.files]
    first, last = (views[0].id, views[-1].id) if views else (None, None)
    return _json(FileList(data=views, first_id=first, last_id=last, has_more=page.has_more))


@router.get(PATH, summary="One file")
async def one_file(request: Request, file_id: str) -> Response:
    """What it is, without its content."""
    return _json(_view(await _find(request, gateway_of(request), file_id)))


@router.delete(PATH, summary="Delete a file")
async def delete_file(request: Request, file_id: str) -> Response:
    """Removes it for good."""
    gateway = gateway_of(request)
    stored = await _find(request, gateway, file_id)
    await gateway.keeper.journal.files.delete(stored.ordinal)
    gateway.keeper.sweep_soon()
    logger.info("file_deleted", file=stored.id)
    return _json(DeletedFile(id=stored.id))


@router.get(f"{PATH}/content", summary="The content of a file")
async def file_content(
    request: Request,
    file_id: str,
    offset: Annotated[int | None, Query(ge=0, le=MAX_OFFSET)] = None,
    asked: Annotated[str | None, Header(alias="Range")] = None,
    if_range: Annotated[str | None, Header()] = None,
) -> Response:
    """The bytes as they were uploaded, or with `Range: bytes=FIRST-LAST` a part of them.

    The output and error files of a batch can be read while it runs. `X-Incomplete` is `true` then, and `X-Last-Line`
    says how many lines there are by now: with that as `offset` the next answer begins behind them.
    """
    stored = await _find(request, gateway_of(request), file_id)
    return await content_of(gateway_of(request).keeper.journal, stored, offset, asked, if_range)


async def _find(request: Request, gateway: Gateway, file_id: str) -> StoredFile:
    """Raises NotFound for one of another tenant, too."""
    files = gateway.keeper.journal.files
    found = await files.get(file_id, caller_of(request).sees) if FILE_ID.fullmatch(file_id) else None
    if found is None:
        raise NotFound(
            f"there is no file {short(file_id)!r}: it was never here, was deleted, or has expired; GET /v1/files lists "
            "what there is",
            code="file_not_found",
        )
    return found


def _view(stored: StoredFile) -> FileObject:
    return FileObject(
        id=stored.id,
        bytes=stored.size,
        created_at=int(stored.created_at),
        expires_at=None if stored.expires_at is None else int(stored.expires_at),
        filename=stored.filename,
        purpose=stored.purpose,
    )


def _json(answer: msgspec.Struct) -> Response:
    return Response(_encode(answer), media_type="application/json")
