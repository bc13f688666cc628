"""The machines that the ranks run on."""

import time
from typing import Literal

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.api.describing import Answers, Described, one_of
from app.api.state import gateway_of
from app.gateway import Gateway
from app.ranks.hosts.local import LocalHost
from app.ranks.hosts.node import NodeHost, NodeState

router = APIRouter()
_encode = msgspec.json.Encoder().encode


class NodeView(msgspec.Struct, kw_only=True):
    """One node."""

    object: Literal["node"] = "node"
    node: int
    state: str
    name: str | None
    ray_node_id: str | None
    pid: int | None  # of the gateway or the agent
    device: str | None
    cores: int | None
    gpus: list[str]
    ranks: list[int]
    heard_age_s: float | None  # seconds since it last said anything


class NodeList(msgspec.Struct, kw_only=True):
    """All nodes."""

    object: Literal["list"] = "list"
    data: list[NodeView]
    refused_peers: int  # that could not prove to be nodes of this service


SCHEMAS = (
    Described(
        NodeView,
        words={"state": one_of(NodeState)},
        notes={
            "ray_node_id": "Where Ray places the ranks: the node of Ray's that this one is on, with others maybe.",
            "heard_age_s": "Seconds since it last said anything.",
            "pid": "Of the gateway, or of the node's agent.",
        },
    ),
    Described(NodeList, notes={"refused_peers": "Connections of peers without the nodes' keys."}),
)
ANSWERS = {"/v1/nodes": Answers("NodeList")}


@router.get("/v1/nodes", summary="All nodes")
async def nodes(request: Request) -> Response:
    """The machines that ranks run on. Node 0 is the gateway's own."""
    gateway = gateway_of(request)
    hosts = gateway.fleet.hosts
    views = [_view(gateway, host) for host in hosts.all]
    refused = hosts.nodes.port.refused if hosts.nodes else 0
    return Response(_encode(NodeList(data=views, refused_peers=refused)), media_type="application/json")


def _view(gateway: Gateway, host: LocalHost | NodeHost) -> NodeView:
    ranks = [rank.number for rank in gateway.fleet.ranks if gateway.fleet.host_of(rank.number) is host]
    facts = host.facts
    state = NodeState.JOINED
    heard_at: float | None = time.monotonic()
    if isinstance(host, NodeHost):
        state, heard_at = host.state, host.heard_at
    return NodeView(
        node=host.number,
        state=state,
        name=facts.name if facts else None,
        ray_node_id=facts.ray_node_id if facts else None,
        pid=facts.pid if facts else None,
        device=facts.device if facts else None,
        cores=facts.cores if facts else None,
        gpus=facts.gpus if facts else [],
        ranks=ranks,
        heard_age_s=None if heard_at is None else round(time.monotonic() - heard_at, 3),
    )
