"""``POST /v1/batch_generate``: read the request, have it accepted, and answer when all items have their results."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.api import examples
from app.api.auth import caller_of
from app.api.batch_response import BatchResponse
from app.api.batch_schemas import ANSWER, SCHEMAS
from app.api.body import BodyLimits, read_json
from app.api.describing import Answers
from app.api.plain_route import PlainRoute
from app.api.state import gateway_of
from app.batches.memory import Holding
from app.batches.request import BatchRequest
from app.batches.results_in_memory import ResultsInMemory
from app.errors import InvalidRequest, TooSlow
from app.gateway import Gateway

__all__ = ["ANSWERS", "SCHEMAS", "batch_generate", "router"]
router = APIRouter(route_class=PlainRoute)
NDJSON = "application/x-ndjson"
ANSWERS = {
    "/v1/batch_generate": Answers(
        ANSWER,
        (403, 404, 408, 413, 415, 503),
        example=examples.ANSWER,
        takes=BatchRequest.__name__,
        requests=examples.REQUESTS,
    )
}


@router.post("/v1/batch_generate", summary="Generate for a batch of prompts")
async def batch_generate(request: Request) -> Response:
    """Runs the batch on the ranks and answers with one result per prompt, in order."""
    gateway = gateway_of(request)
    _refuse_headers(request)
    gateway.availability.check()
    holding = gateway.memory.open()
    try:
        body = await _read(request, gateway, holding)
        run = await gateway.acceptance.accept(
            body, caller_of(request), holding, lambda size: ResultsInMemory(size, holding)
        )
    except BaseException:
        holding.close()
        raise
    return BatchResponse(run, gateway.runs.cancel, gateway.settings.keepalive_s)


async def _read(request: Request, gateway: Gateway, holding: Holding) -> bytearray:
    """The body. What has not come whole when the service ends is not waited for."""
    try:
        return await read_json(request, BodyLimits.of(gateway.settings), holding, gateway.bodies)
    except TooSlow:
        gateway.availability.check()
        raise


def _refuse_headers(request: Request) -> None:
    if "idempotency-key" in request.headers:
        raise InvalidRequest(
            "Idempotency-Key does not exist yet: leave it out", param="Idempotency-Key", code="unsupported"
        )
    if request.headers.get("accept", "").strip().startswith(NDJSON):
        raise InvalidRequest(
            f"Accept: {NDJSON} (streaming) does not exist yet: leave it out", param="Accept", code="unsupported"
        )
