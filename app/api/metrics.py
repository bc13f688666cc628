"""``GET /metrics``: the gateway's own, and those of every rank's engine."""

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.api.describing import Answers, Described
from app.api.state import gateway_of
from app.metrics import merge_expositions
from app.ranks.questions import NoAnswer

router = APIRouter()
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SCHEMAS: tuple[Described, ...] = ()
ANSWERS = {"/metrics": Answers(None)}


@router.get("/metrics", summary="Metrics in Prometheus' text format")
async def metrics(request: Request) -> Response:
    """The gateway's own, and those of every rank's engine, fetched now."""
    gateway = gateway_of(request)
    asked = [
        gateway.fleet.questions.scrape(rank.number, rank.incarnation) for rank in gateway.fleet.ranks if rank.is_ready
    ]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    texts = [gateway.metrics.exposition()]
    for text in answers:
        if isinstance(text, bytes):
            texts.append(text)
        elif not isinstance(text, NoAnswer):
            raise text
    return Response(merge_expositions(texts), media_type=METRICS_TYPE)
