"""``GET /v1/models``: the model that is served, as OpenAI lists it."""

from typing import Literal

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.api.describing import Answers, Described
from app.api.state import gateway_of

router = APIRouter()
_encode = msgspec.json.Encoder().encode


class Model(msgspec.Struct, kw_only=True):
    """What is served, as OpenAI lists it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "phalanx"
    max_model_len: int | None


class ModelList(msgspec.Struct, kw_only=True):
    """One model, as a list."""

    object: Literal["list"] = "list"
    data: list[Model]


SCHEMAS = (Described(Model), Described(ModelList))
ANSWERS = {"/v1/models": Answers("ModelList")}


@router.get("/v1/models", summary="The model that is served")
async def models(request: Request) -> Response:
    """A list of one."""
    gateway = gateway_of(request)
    facts = next((rank.facts for rank in gateway.fleet.ranks if rank.facts is not None), None)
    model = Model(
        id=gateway.settings.public_name,
        created=int(gateway.started_at),
        max_model_len=facts.max_model_len if facts else None,
    )
    return Response(_encode(ModelList(data=[model])), media_type="application/json")
