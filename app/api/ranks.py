"""How each rank is doing, and the operator's hand on it."""

from typing import Literal

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.convertors import StringConvertor, register_url_convertor

from app.api.auth import caller_of, require_admin
from app.api.describing import Answers, Described, one_of, or_null
from app.api.state import gateway_of
from app.errors import Conflict, NotFound
from app.gateway import Gateway
from app.ranks.rank import Rank, RankState
from engines.contract.protocol import Stage
from engines.contract.spec import GroupKind


class RankPlace(StringConvertor):
    """What may stand in a path for a rank's number: a wrong one is said to be so. /v1/ranks/scale is another path."""

    regex = "(?!scale$)[^/]+"


register_url_convertor("of_rank", RankPlace())
router = APIRouter()
LOG_TAIL_LINES = 20
_encode = msgspec.json.Encoder().encode


class RankView(msgspec.Struct, kw_only=True):
    """One rank. Counts are sequences unless they say otherwise."""

    object: Literal["rank"] = "rank"
    rank: int
    state: str
    stage: str | None
    progress: float | None  # while it starts: the share of the stages that it has behind it
    group: int
    group_kind: str | None
    expert_parallel: bool | None
    incarnation: int
    pid: int | None
    processes: dict[str, int]
    node: str  # its hostname
    node_rank: int
    ray_node_id: str | None  # where Ray places the ranks
    gpus: list[str]
    cores: str | None
    model: str
    engine: str | None
    max_model_len: int | None
    max_num_seqs: int | None
    max_num_batched_tokens: int | None
    running: int
    waiting: int
    held: int  # items
    credit: int
    kv_cache_usage: float
    kv_cache_tokens: int | None
    tokens_per_s: float
    steps: int
    step_age_s: float | None
    restarts: int
    restarts_by_cause: dict[str, int]
    suspects: int  # items
    last_error: str | None
    log_file: str | None
    log_tail: list[str]


class RankList(msgspec.Struct, kw_only=True):
    """All ranks."""

    object: Literal["list"] = "list"
    data: list[RankView]


SCHEMAS = (
    Described(
        RankView,
        words={
            "state": one_of(RankState),
            "stage": or_null(one_of(Stage)),
            "group_kind": or_null(one_of(GroupKind)),
        },
        notes={
            "max_num_batched_tokens": "Tokens of one step.",
            "held": "Items.",
            "credit": "Sequences that it may take now.",
        },
    ),
    Described(RankList),
)
OPERATED = Answers("RankView", (403, 404, 409), success=202)
ANSWERS = {
    "/v1/ranks": Answers("RankList"),
    "/v1/ranks/{rank}": Answers("RankView", (404,)),
    "/v1/ranks/{rank}/drain": OPERATED,
    "/v1/ranks/{rank}/restart": OPERATED,
}


@router.get("/v1/ranks", summary="All ranks")
async def ranks(request: Request) -> Response:
    """State and figures of every rank. What comes from a rank's log needs an admin's API key."""
    gateway = gateway_of(request)
    is_admin = caller_of(request).is_admin
    lines = {rank.number: 0 if rank.is_serving else LOG_TAIL_LINES for rank in gateway.fleet.ranks}
    views = [_view(gateway, rank, lines[rank.number], is_admin) for rank in gateway.fleet.ranks]
    return Response(_encode(RankList(data=views)), media_type="application/json")


@router.get("/v1/ranks/{rank:of_rank}", summary="One rank, with the tail of its log")
async def one_rank(request: Request, rank: int) -> Response:
    """As in the list, and, for an admin's API key, always with the last lines of its log."""
    gateway = gateway_of(request)
    view = _view(gateway, _find(gateway, rank), LOG_TAIL_LINES, caller_of(request).is_admin)
    return Response(_encode(view), media_type="application/json")


@router.post("/v1/ranks/{rank}/drain", summary="Let a rank finish what it holds", status_code=202)
async def drain(request: Request, rank: int) -> Response:
    """The rank and its group finish what they hold and take nothing new, until they are restarted."""
    require_admin(request)
    gateway = gateway_of(request)
    found = _find(gateway, rank)
    group = gateway.fleet.group_of(rank)
    if group is None or not group.drain():
        raise Conflict(
            f"rank {rank} is {found.state}: only one that is ready can be drained", param="rank", code="rank_not_ready"
        )
    return Response(_encode(_view(gateway, found, 0, is_admin=True)), 202, media_type="application/json")


@router.post("/v1/ranks/{rank}/restart", summary="Start a rank anew", status_code=202)
async def restart(request: Request, rank: int) -> Response:
    """Its group is started anew: once it has finished what it holds, or at once if it holds nothing.

    What it has not finished within --drain-timeout-s runs elsewhere or later; nothing is lost. A broken group is
    started again, and its failures are forgotten.
    """
    require_admin(request)
    gateway = gateway_of(request)
    found = _find(gateway, rank)
    group = gateway.fleet.group_of(rank)
    if group is None or gateway.availability.is_draining:
        raise Conflict(
            f"rank {rank} cannot be restarted: {gateway.availability.reason}", param="rank", code="rank_not_restartable"
        )
    group.restart()
    return Response(_encode(_view(gateway, found, 0, is_admin=True)), 202, media_type="application/json")


def _find(gateway: Gateway, number: int) -> Rank:
    """Raises NotFound."""
    count = len(gateway.fleet.ranks)
    if not 0 <= number < count:
        raise NotFound(f"there is no rank {number}: they are 0 to {count - 1}", param="rank", code="rank_not_found")
    return gateway.fleet.ranks[number]


def _view(gateway: Gateway, rank: Rank, log_lines: int, is_admin: bool) -> RankView:
    plan, facts, status = gateway.fleet.plan, rank.facts, rank.status
    group = gateway.fleet.group_of(rank.number)
    return RankView(
        rank=rank.number,
        state=rank.state,
        stage=rank.stage,
        progress=None if rank.progress is None else round(rank.progress, 2),
        group=rank.group,
        group_kind=plan.group_kind if plan else None,
        expert_parallel=plan.expert_parallel if plan else None,
        incarnation=rank.incarnation,
        pid=rank.pid,
        processes=facts.processes if facts else {},
        node=gateway.fleet.host_of(rank.number).name,
        node_rank=gateway.fleet.host_of(rank.number).number,
        ray_node_id=gateway.fleet.host_of(rank.number).ray_node_id,
        gpus=list(rank.share.gpus),
        cores=rank.share.cores,
        model=gateway.settings.public_name,
        engine=facts.engine if facts else None,
        max_model_len=facts.max_model_len if facts else None,
        max_num_seqs=facts.max_num_seqs if facts else None,
        max_num_batched_tokens=(facts.max_num_batched_tokens or None) if facts else None,
        running=status.running if status else 0,
        waiting=status.waiting if status else 0,
        held=gateway.dispatcher.held(rank.number),
        credit=gateway.dispatcher.credit(rank.number),
        kv_cache_usage=round(status.kv_cache_usage, 4) if status else 0.0,
        kv_cache_tokens=facts.kv_cache_tokens if facts else None,
        tokens_per_s=round(rank.tokens_per_s, 1),
        steps=status.steps if status else 0,
        step_age_s=round(status.step_age_s, 3) if status and status.step_age_s is not None else None,
        restarts=max(0, rank.incarnation - 1),
        restarts_by_cause={str(kind): count for kind, count in group.restarts.items() if count} if group else {},
        suspects=gateway.dispatcher.suspects(rank.group),
        last_error=rank.last_error if is_admin else rank.error_line,
        log_file=rank.log.path if rank.log else None,
        log_tail=rank.log_tail(log_lines) if is_admin else [],
    )
