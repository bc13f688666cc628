"""The HTTP application around a gateway."""

from fastapi import FastAPI
from starlette.types import ASGIApp

from app.api import (
    batch_generate,
    detached_batches,
    errors,
    exchanges,
    files,
    health,
    metrics,
    models,
    nodes,
    openai_batches,
    ranks,
    scaling,
    usage,
)
from app.api.auth import KeyCheck
from app.api.describing import Resource
from app.api.openapi import describe
from app.api.plain_route import PlainRoutes
from app.gateway import Gateway
from app.http.frontdoor import Frontdoor, allowed_hosts
from phalanx import __version__

RESOURCES: tuple[Resource, ...] = (
    batch_generate,
    detached_batches,
    exchanges,
    files,
    openai_batches,
    ranks,
    scaling,
    nodes,
    models,
    usage,
    metrics,
    health,
)


def create_app(gateway: Gateway) -> ASGIApp:
    """Routes, errors in OpenAI's shape, documentation; the check of API keys, and the front door before all of them."""
    app = FastAPI(
        title="Phalanx",
        version=__version__,
        summary="Batch generation over data-parallel vLLM engines",
        redirect_slashes=False,  # it would name http:// behind TLS, and an address of the client's choice
    )
    app.state.gateway = gateway
    errors.install(app)
    for resource in RESOURCES:
        app.include_router(resource.router)
    describe(app, RESOURCES)
    settings = gateway.settings
    checked = KeyCheck(PlainRoutes(app), gateway.keys, gateway.dispatcher.backlog)
    hosts = allowed_hosts(settings.host, settings.allowed_hosts)
    return Frontdoor(checked, gateway.metrics, hosts, gateway.traces)
