"""The operator's hand on how many ranks there are."""

from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.api.auth import require_admin
from app.api.body import BodyLimits, read_json
from app.api.describing import Answers, Described
from app.api.state import gateway_of
from app.errors import Conflict, InvalidRequest
from app.ranks.scaling import MOST_RANKS, NotScalable
from app.validation import DECODE_ERRORS, complaint

router = APIRouter()
_encode = msgspec.json.Encoder().encode


class ScaleRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How many ranks there are to be."""

    dp_size: Annotated[int, msgspec.Meta(ge=1, le=MOST_RANKS)]


class ScalingView(msgspec.Struct, kw_only=True):
    """What is being done: ranks that are added take items once they are ready, and those that are removed finish what
    they hold."""

    object: Literal["scaling"] = "scaling"
    dp_size: int
    was: int
    adding: list[int]
    removing: list[int]


SCHEMAS = (
    Described(ScaleRequest, is_read=True, notes={"dp_size": "Ranks from now on."}),
    Described(ScalingView, notes={"was": "Ranks until now.", "adding": "Ranks.", "removing": "Ranks."}),
)
ANSWERS = {"/v1/ranks/scale": Answers("ScalingView", (403, 409), success=202, takes="ScaleRequest")}


@router.post("/v1/ranks/scale", summary="Have more ranks, or fewer", status_code=202)
async def scale(request: Request) -> Response:
    """Replicas alone. New ranks need room: free GPUs on a node, or what Ray finds. The last ranks are removed first;
    what one of them has not finished within --drain-timeout-s runs elsewhere."""
    require_admin(request)
    gateway = gateway_of(request)
    holding = gateway.memory.open()
    try:
        body = await read_json(request, BodyLimits.of(gateway.settings), holding, gateway.bodies)
        asked = _parse(bytes(body))
    finally:
        holding.close()
    if gateway.availability.is_draining:
        raise Conflict("the service is shutting down: it takes no more ranks", param="dp_size", code="not_scalable")
    try:
        scaled = gateway.fleet.scale(asked.dp_size)
    except NotScalable as error:
        raise Conflict(str(error), param="dp_size", code="not_scalable") from None
    view = ScalingView(dp_size=scaled.dp_size, was=scaled.was, adding=scaled.adding, removing=scaled.removing)
    return Response(_encode(view), 202, media_type="application/json")


def _parse(body: bytes) -> ScaleRequest:
    try:
        return msgspec.json.decode(body, type=ScaleRequest)
    except DECODE_ERRORS as error:
        wrong = complaint(error, "", ScaleRequest.__struct_fields__)
        raise InvalidRequest(wrong.message, param=wrong.param) from None
