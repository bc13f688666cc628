"""Whether the service is alive, and whether it can do work."""

import os
import time
from typing import Literal

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec import UNSET, UnsetType

from app.api.auth import caller_of
from app.api.describing import Answers, Described, one_of, or_null
from app.api.state import gateway_of
from app.batches.availability import LOADING_RETRY_S
from app.errors import ErrorBody
from app.gateway import Gateway
from app.journal.keeper import JournalHealth
from app.ranks.rank import RankState
from engines.contract.protocol import Stage
from phalanx import __version__

router = APIRouter()
LOG_TAIL_LINES = 10  # of a rank that stays down
_encode = msgspec.json.Encoder().encode


class RankSummary(msgspec.Struct, kw_only=True):
    """A rank in one line."""

    rank: int
    state: str
    stage: str | None
    stage_age_s: float
    last_error: str | None
    log_tail: list[str]


class Health(msgspec.Struct, kw_only=True):
    """`ok`: every group is ready and batches can be stored; `degraded`: some groups are, or no batch can be stored;
    `unavailable`: no group is, and requests get 503."""

    status: Literal["ok", "degraded", "unavailable"]
    reason: str
    model: str
    ready_ranks: int
    ranks: list[RankSummary]
    journal: JournalHealth
    error: ErrorBody | UnsetType = UNSET


class Alive(msgspec.Struct, kw_only=True):
    """The gateway's process runs."""

    status: Literal["alive"] = "alive"
    pid: int
    version: str
    uptime_s: float


SCHEMAS = (
    Described(Health),
    Described(RankSummary, words={"state": one_of(RankState), "stage": or_null(one_of(Stage))}),
    Described(JournalHealth, notes={"reason": "Why no batch can be stored; null while they can."}),
    Described(Alive),
)
HEALTH = Answers("Health", (503,), unavailable="Health")
ANSWERS = {"/health": HEALTH, "/health/ready": HEALTH, "/health/live": Answers("Alive")}


@router.head("/health", include_in_schema=False)  # as load balancers ask
@router.head("/health/ready", include_in_schema=False)
@router.get("/health", summary="Whether work can be done")
@router.get("/health/ready", summary="Whether work can be done")
async def health(request: Request) -> Response:
    """200 while any group of ranks is ready, else 503 with the reason and the stage of loading.

    Ranks that stay down show the end of their logs here, unless API keys are asked for: probes carry none.
    """
    view = _view(gateway_of(request), caller_of(request).is_admin)
    if view.status != "unavailable":
        return Response(_encode(view), media_type="application/json")
    view.error = ErrorBody(
        message=view.reason,
        type="service_unavailable_error",
        param=None,
        code="no_rank_ready",
        retry_after_s=LOADING_RETRY_S,
    )
    headers = {"Retry-After": str(int(LOADING_RETRY_S))}
    return Response(_encode(view), 503, headers, "application/json")


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live", summary="Whether the gateway's process is alive")
async def live(request: Request) -> Response:
    """Never depends on the ranks."""
    uptime_s = round(time.time() - gateway_of(request).started_at, 3)
    return Response(
        _encode(Alive(pid=os.getpid(), version=__version__, uptime_s=uptime_s)), media_type="application/json"
    )


def _view(gateway: Gateway, is_admin: bool) -> Health:
    ready = gateway.fleet.ranks_taking_items
    journal = gateway.keeper.health
    now = time.monotonic()
    status: Literal["ok", "degraded", "unavailable"] = "ok"
    if not ready or gateway.availability.is_draining:
        status = "unavailable"
    elif len(ready) < len(gateway.fleet.ranks) or journal.reason:  # a group that stalls is lost as soon as that is seen
        status = "degraded"
    return Health(
        status=status,
        reason=gateway.availability.reason + (f"; no batch can be stored: {journal.reason}" if journal.reason else ""),
        model=gateway.settings.public_name,
        ready_ranks=len(ready),
        ranks=[
            RankSummary(
                rank=rank.number,
                state=rank.state,
                stage=rank.stage,
                stage_age_s=round(now - rank.stage_since, 1),
                last_error=rank.error_line,
                log_tail=rank.log_tail(LOG_TAIL_LINES) if is_admin and rank.state is RankState.BROKEN else [],
            )
            for rank in gateway.fleet.ranks
        ],
        journal=journal,
    )
