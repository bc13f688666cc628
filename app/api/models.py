"""``GET /v1/models``, and one of them: the model that is served, as OpenAI lists it."""

from typing import Literal

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.api.describing import Answers, Described
from app.api.state import gateway_of
from app.errors import NotFound
from app.gateway import Gateway
from app.ranks.offer import endpoints_of
from app.validation import short

router = APIRouter()
_encode = msgspec.json.Encoder().encode


class Model(msgspec.Struct, kw_only=True):
    """What is served, as OpenAI lists it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "phalanx"
    max_model_len: int | None  # like what follows, null until a rank is ready
    endpoints: list[str] | None


class ModelList(msgspec.Struct, kw_only=True):
    """One model, as a list."""

    object: Literal["list"] = "list"
    data: list[Model]


SCHEMAS = (
    Described(Model, notes={"endpoints": "Paths that requests for it may have. Null until a rank is ready."}),
    Described(ModelList),
)
ANSWERS = {
    "/v1/models": Answers("ModelList"),
    "/v1/models/{model}": Answers("Model", (404,)),
    "/v1/models/{organisation}/{model}": Answers("Model", (404,)),
}


@router.get("/v1/models", summary="The model that is served")
async def models(request: Request) -> Response:
    """A list of one."""
    return Response(_encode(ModelList(data=[_model(gateway_of(request))])), media_type="application/json")


@router.get("/v1/models/{model}", summary="The model that is served, by its id")
async def one_model(request: Request, model: str) -> Response:
    """404 for any other."""
    return _named(gateway_of(request), model)


@router.get("/v1/models/{organisation}/{model}", summary="The same, by a name of the hub's")
async def hub_model(request: Request, organisation: str, model: str) -> Response:
    """404 for any other. A path that took more slashes would take those that end one by mistake."""
    return _named(gateway_of(request), f"{organisation}/{model}")


def _named(gateway: Gateway, name: str) -> Response:
    served = _model(gateway)
    if name != served.id:
        raise NotFound(
            f"model {short(name)!r} is not served here: use {served.id!r}", param="model", code="model_not_found"
        )
    return Response(_encode(served), media_type="application/json")


def _model(gateway: Gateway) -> Model:
    facts = gateway.fleet.facts
    return Model(
        id=gateway.settings.public_name,
        created=int(gateway.started_at),
        max_model_len=facts.max_model_len if facts else None,
        endpoints=endpoints_of(facts) if facts else None,
    )
