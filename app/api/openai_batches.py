"""``/v1/batches``: OpenAI's Batch API, on the journal. Input and output are files (``/v1/files``)."""

from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from app.api.auth import caller_of
from app.api.body import BodyLimits, read_json
from app.api.describing import Answers, Described, one_of
from app.api.state import gateway_of
from app.errors import InvalidRequest, NotFound
from app.gateway import Gateway
from app.journal.openai_records import StoredOpenAIBatch
from app.journal.states import OpenAIBatchStatus
from app.openai_batches.batch_object import (
    BatchObject,
    InputDetails,
    LineCounts,
    OpenAIUsage,
    OutputDetails,
    Problems,
    shown,
)
from app.openai_batches.creation import WINDOW, CreateBatch, OutputExpiry, parse_creation
from app.openai_batches.endpoints import ENDPOINTS
from app.openai_batches.input_line import Problem, ProblemCode
from app.validation import short

router = APIRouter()
MAX_PAGE = 100
_encode = msgspec.json.Encoder().encode


class OpenAIBatchList(msgspec.Struct, kw_only=True):
    """A page of batches, newest first. `last_id` is the `after` of the next page."""

    object: Literal["list"] = "list"
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


SCHEMAS = (
    Described(
        CreateBatch,
        is_read=True,
        words={"endpoint": one_of(ENDPOINTS)},
        opaque={"completion_window": {"type": "string", "pattern": f"^{WINDOW.pattern}$"}},
    ),
    Described(OutputExpiry, is_read=True),
    Described(BatchObject, words={"status": one_of(OpenAIBatchStatus)}),
    Described(Problem, words={"code": one_of(ProblemCode)}),
    *(
        Described(struct)
        for struct in (OpenAIBatchList, Problems, LineCounts, OpenAIUsage, InputDetails, OutputDetails)
    ),
)
PATH = "/v1/batches/{batch_id}"
EXAMPLE = {
    "input_file_id": "file-01a21cdfcc716156b5b4e666465a0905",
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h",
}
ANSWERS = {
    "POST /v1/batches": Answers(
        BatchObject.__name__,
        (403, 408, 413, 415, 503),
        takes=CreateBatch.__name__,
        requests={"request": {"value": EXAMPLE}},
    ),
    "GET /v1/batches": Answers(OpenAIBatchList.__name__, (503,)),
    f"GET {PATH}": Answers(BatchObject.__name__, (404, 503)),
    f"POST {PATH}/cancel": Answers(BatchObject.__name__, (403, 404, 503)),
    f"POST {PATH}/resume": Answers(BatchObject.__name__, (403, 404, 409, 503)),
}


@router.post("/v1/batches", summary="Run a file of requests")
async def create_batch(request: Request) -> Response:
    """Each line of the input file is a request to `endpoint`. The answer comes at once: the file is read then."""
    gateway = gateway_of(request)
    holding = gateway.memory.open()
    try:
        body = await read_json(request, BodyLimits.of(gateway.settings), holding, gateway.bodies)
        asked = parse_creation(body, ENDPOINTS)
        if why := gateway.exchanges.refusal(asked.endpoint):
            raise InvalidRequest(f"endpoint is {asked.endpoint!r}: {why}", param="endpoint", code="not_offered")
        batch = await gateway.openai_batches.create(asked, caller_of(request))
    finally:
        holding.close()
    return _json(shown(batch, None))


@router.get("/v1/batches", summary="Batches of files")
async def list_batches(
    request: Request, limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20, after: str | None = None
) -> Response:
    """Newest first; `after` is the id of the last one seen."""
    found = await gateway_of(request).keeper.journal.openai_batches.list(
        caller_of(request).sees, after=after, limit=limit
    )
    views = [shown(batch, found.runs.get(batch.run) if batch.run is not None else None) for batch in found.batches]
    first, last = (views[0].id, views[-1].id) if views else (None, None)
    return _json(OpenAIBatchList(data=views, first_id=first, last_id=last, has_more=found.has_more))


@router.get(PATH, summary="A batch of a file")
async def get_batch(request: Request, batch_id: str) -> Response:
    """Its status, when it came to each, and how far it is."""
    return await _shown(gateway_of(request), await _find(request, batch_id))


@router.post(f"{PATH}/cancel", summary="Cancel a batch of a file")
async def cancel_batch(request: Request, batch_id: str) -> Response:
    """It is `cancelling`, and then `cancelled`, with what is finished in its files. One that has ended stays so."""
    gateway = gateway_of(request)
    return await _shown(gateway, await gateway.openai_batches.cancel(await _find(request, batch_id)))


@router.post(f"{PATH}/resume", summary="Resume a batch of a file that is held")
async def resume_batch(request: Request, batch_id: str) -> Response:
    """Tried again, though its gateways ended while it ran; `errors` says why it is held."""
    gateway = gateway_of(request)
    return await _shown(gateway, await gateway.openai_batches.resume(await _find(request, batch_id)))


async def _find(request: Request, batch_id: str) -> StoredOpenAIBatch:
    found = await gateway_of(request).keeper.journal.openai_batches.get(batch_id, caller_of(request).sees)
    if found is None:
        raise NotFound(
            f"there is no batch {short(batch_id)!r}: GET /v1/batches lists what there is", code="batch_not_found"
        )
    return found


async def _shown(gateway: Gateway, batch: StoredOpenAIBatch) -> Response:
    return _json(shown(batch, await gateway.keeper.journal.openai_batches.run_of(batch)))


def _json(view: msgspec.Struct) -> Response:
    return Response(_encode(view), media_type="application/json")
