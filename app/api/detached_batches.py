"""Batches that outlive their connection: list, look at, read, cancel, resume and delete them."""

import time
from collections.abc import Collection
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from app.api.answer_form import NDJSON
from app.api.auth import caller_of
from app.api.batch_schemas import DETACHED_LINE, RESULT_PARTS
from app.api.body import BodyLimits, read_json
from app.api.describing import Answers, Described, one_of, or_null
from app.api.piped_response import PipedResponse, accepts_gzip
from app.api.state import gateway_of
from app.batches.detached.reading import Wanted
from app.batches.detached.view import DetachedBatch, DetachedProgress, DetachedSummary, NumberedResult, view_of
from app.batches.record import BATCH_ID
from app.batches.request import Seconds
from app.errors import InvalidRequest, NotFound
from app.gateway import Gateway
from app.journal.records import StoredBatch
from app.journal.states import BatchState
from app.validation import DECODE_ERRORS, complaint

router = APIRouter()
MAX_PAGE = 1000
MAX_NUMBER = 2**53  # of a result, or of several: what every JSON library and SQL's integers hold
VISIBLE = [state for state in BatchState if state is not BatchState.RECEIVING]
_encode = msgspec.json.Encoder().encode


class BatchList(msgspec.Struct, kw_only=True):
    """A page of batches, newest first. `last_id` is the `after` of the next page."""

    object: Literal["list"] = "list"
    data: list[DetachedBatch]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedBatch(msgspec.Struct, kw_only=True):
    """What is left of a batch that was deleted."""

    id: str
    object: Literal["batch_generation.deleted"] = "batch_generation.deleted"
    deleted: Literal[True] = True


class ResumeRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What may be said of a batch that runs again. The body may be left out."""

    timeout_s: Seconds | None = None
    expires_after_s: Seconds | None = None


_decode_resume = msgspec.json.Decoder(ResumeRequest).decode
_STATES = {"status": one_of(VISIBLE)}
_TIMES = {
    "started_at": "When its first item was sent to a rank.",
    "deadline_at": "From timeout_s: what has no result then is timeout.",
    "expires_at": "From expires_after_s: if it has not begun by then, it is expired.",
    "last_seq": "Of its latest result.",
    "stats": "Once it has ended: as in an answer at once, of the gateway's last life.",
}
SCHEMAS = (
    Described(
        DetachedBatch,
        words=_STATES,
        notes=_TIMES,
        opaque={"stats": or_null({"type": "object"}), "metadata": {"type": "object", "additionalProperties": True}},
    ),
    Described(DetachedProgress, words=_STATES),
    Described(NumberedResult, opaque=RESULT_PARTS),
    Described(DetachedSummary, words=_STATES, opaque={"stats": or_null({"type": "object"})}),
    Described(BatchList),
    Described(DeletedBatch),
    Described(ResumeRequest, is_read=True),
)
PATH = "/v1/batch_generate/{batch_id}"
ANSWERS = {
    "GET /v1/batch_generate": Answers(BatchList.__name__, (404, 503)),
    f"GET {PATH}": Answers(DetachedBatch.__name__, (404, 503)),
    f"DELETE {PATH}": Answers(DeletedBatch.__name__, (403, 404, 409, 503)),
    f"{PATH}/results": Answers(DETACHED_LINE, (404, 503), line=DETACHED_LINE),
    f"{PATH}/cancel": Answers(DetachedBatch.__name__, (403, 404, 503)),
    f"{PATH}/resume": Answers(
        DetachedBatch.__name__, (403, 404, 408, 409, 413, 415, 503), takes=ResumeRequest.__name__, needs_body=False
    ),
}


@router.get("/v1/batch_generate", summary="Batches in the background")
async def list_batches(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
    after: str | None = None,
    status: str | None = None,
) -> Response:
    """Newest first; `after` is the id of the last one seen, `status` a list such as `queued,in_progress`."""
    gateway, tenant = gateway_of(request), caller_of(request).sees
    states = _states(status)
    journal = gateway.keeper.journal
    before = None if after is None else (await _find(gateway, after, tenant)).ordinal
    page = await journal.list_batches(tenant, states=states, before=before, limit=limit)
    views = [_view(gateway, stored) for stored in page.batches]
    ids = [view.id for view in views]
    answer = BatchList(
        data=views,
        first_id=ids[0] if ids else None,
        last_id=ids[-1] if ids else None,
        has_more=page.before is not None,
    )
    return _json(answer)


@router.get(PATH, summary="One batch in the background")
async def one_batch(request: Request, batch_id: str) -> Response:
    """Its state, and how far it is."""
    gateway = gateway_of(request)
    return _json(_view(gateway, await _find(gateway, batch_id, caller_of(request).sees)))


@router.get(f"{PATH}/results", summary="Results of a batch in the background")
async def batch_results(
    request: Request,
    batch_id: str,
    after: Annotated[int, Query(ge=0, le=MAX_NUMBER)] = 0,
    limit: Annotated[int | None, Query(ge=1, le=MAX_NUMBER)] = None,
    follow: bool = False,
) -> Response:
    """Lines in the order in which the results became durable, each with its `seq`; `after` goes on from one. The last
    line is a summary when the batch has ended and all was read, or else progress. With `follow` it waits for the end.

    Items of a batch that was cancelled, has expired or failed, and that have no result of their own, come last, with
    the seq of the last result: they may come again to a reader who asks again.
    """
    gateway = gateway_of(request)
    stored = await _find(gateway, batch_id, caller_of(request).sees)
    pieces = gateway.detached.results.lines(stored, Wanted(after, limit, follow))
    return PipedResponse(pieces, NDJSON, gzip=accepts_gzip(request))


@router.post(f"{PATH}/cancel", summary="Cancel a batch in the background")
async def cancel_batch(request: Request, batch_id: str) -> Response:
    """What has a result keeps it. A batch that has ended stays as it is."""
    gateway = gateway_of(request)
    stored = await _find(gateway, batch_id, caller_of(request).sees)
    return _json(_view(gateway, await gateway.detached.batches.cancel(stored)))


@router.post(f"{PATH}/resume", summary="Resume a batch in the background")
async def resume_batch(request: Request, batch_id: str) -> Response:
    """Runs what has no result, or a retryable one, again. A batch that is held is tried again."""
    gateway = gateway_of(request)
    stored = await _find(gateway, batch_id, caller_of(request).sees)
    asked = await _read_resume(request, gateway)
    now = time.time()
    deadline_at = None if asked.timeout_s is None else now + asked.timeout_s
    expires_at = None if asked.expires_after_s is None else now + asked.expires_after_s
    return _json(_view(gateway, await gateway.detached.batches.resume(stored, deadline_at, expires_at)))


@router.delete(PATH, summary="Delete a batch in the background")
async def delete_batch(request: Request, batch_id: str) -> Response:
    """Removes the prompts and results of a batch that has ended, for good."""
    gateway = gateway_of(request)
    stored = await _find(gateway, batch_id, caller_of(request).sees)
    await gateway.keeper.delete(stored.ordinal)
    return _json(DeletedBatch(id=stored.id))


def accepted(gateway: Gateway, stored: StoredBatch) -> Response:
    """The answer to a batch that has been stored: 202, and where to look."""
    headers = {"Location": f"/v1/batch_generate/{stored.id}"}
    return Response(_encode(_view(gateway, stored)), 202, headers, "application/json")


async def _find(gateway: Gateway, batch_id: str, tenant: str | None) -> StoredBatch:
    """Raises NotFound for one of another tenant, too."""
    found = await gateway.keeper.journal.get(batch_id, tenant) if BATCH_ID.fullmatch(batch_id) else None
    if found is None:
        raise NotFound(
            f"there is no batch {batch_id[:80]!r}: it was never here, or it has been deleted; GET /v1/batch_generate "
            "lists what there is",
            code="batch_not_found",
        )
    return found


async def _read_resume(request: Request, gateway: Gateway) -> ResumeRequest:
    if request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers:
        return ResumeRequest()
    holding = gateway.memory.open()
    try:
        body = await read_json(request, BodyLimits.of(gateway.settings), holding, gateway.bodies)
        return _decode_resume(body)
    except DECODE_ERRORS as error:
        found = complaint(error, "", ResumeRequest.__struct_fields__)
        raise InvalidRequest(found.message, param=found.param) from error
    finally:
        holding.close()


def _states(text: str | None) -> Collection[BatchState]:
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    for name in names:
        if name not in VISIBLE:
            raise InvalidRequest(f"status names {name[:40]!r}: it may be {', '.join(VISIBLE)}", param="status")
    return [BatchState(name) for name in names]


def _view(gateway: Gateway, stored: StoredBatch) -> DetachedBatch:
    return view_of(stored, gateway.detached.results.figures(stored), time.time())


def _json(answer: msgspec.Struct) -> Response:
    return Response(_encode(answer), media_type="application/json")
