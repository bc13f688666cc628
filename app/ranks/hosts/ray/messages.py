"""What the gateway and its Ray driver say to each other, a JSON line a message; and what a placed agent is told."""

from typing import Any

import msgspec

from engines.contract.node_keys import NodeKeys

SEEN_EVERY_S = 1.0  # how often the driver says what it sees
LOCAL = "local"  # the address of a cluster of the gateway's own
MOST_LINE_BYTES = 64 * 2**20  # clusters may be large


class PlacedAgent(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent is told by its gateway: the first line of its standard input."""

    node: int
    ticket: str
    endpoint: str
    keys: NodeKeys  # of this life of the gateway
    device: str
    settings: dict[str, Any]  # those that concern its ranks, by name; Any: as JSON has them


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """What Ray has given an agent: the second line."""

    ray_node_id: str
    gpus: list[str]  # as CUDA_VISIBLE_DEVICES names them
    cpus: int  # at least 1


class Connect(msgspec.Struct, frozen=True, kw_only=True):
    """The driver's first line: which cluster."""

    address: str


# ---------------------------------------------------------------- gateway -> driver


class Place(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Asks for a placement group. It is known by this name from then on."""

    placement: str
    bundles: list[dict[str, float]]
    strategy: str
    avoid: list[str] = []  # ids of nodes


class Unplace(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Ends what runs in a placement group, and removes it."""

    placement: str


class StartAgent(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Starts an agent in a bundle of a placement group that stands."""

    ticket: str
    placement: str
    bundle: int
    told: str  # a PlacedAgent, as JSON
    runtime_env: dict[str, Any] = {}  # Any: Ray checks it


class EndAgent(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Ends an agent: gently, and without asking where that does not help."""

    ticket: str


ToDriver = Place | Unplace | StartAgent | EndAgent

# ---------------------------------------------------------------- driver -> gateway


class Connected(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """There is a cluster, and the driver is part of it."""

    ray_version: str
    address: str  # of the node that the driver belongs to
    has_gpus: bool


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """There is none, or it is of no use, and why. The driver ends."""

    reason: str


class RayNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node of the cluster."""

    id: str
    name: str  # the hostname
    address: str
    is_alive: bool
    is_draining: bool
    total: dict[str, float]  # resources
    available: dict[str, float]


class PlacementSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A placement group, as Ray has it."""

    state: str  # PENDING, PREPARED, CREATED, RESCHEDULING, REMOVED
    scheduling: str  # NO_RESOURCES, INFEASIBLE, ...
    nodes: list[str]  # the ids of the bundles' nodes; empty where a bundle has none


class Seen(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The cluster."""

    nodes: list[RayNode]
    placements: dict[str, PlacementSeen]

    @property
    def by_id(self) -> dict[str, RayNode]:
        """The nodes."""
        return {node.id: node for node in self.nodes}


class PlaceRefused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Ray does not take what was asked of it for a placement group, and why. There is none."""

    placement: str
    reason: str
    is_final: bool  # what was asked for is wrong, and no later try can succeed


class AgentEnded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """An agent, or the actor that holds it, is no more."""

    ticket: str
    reason: str
    exit_code: int | None = None  # the agent's own; None where it was ended, or Ray lost it
    lacks_package: bool = False  # Phalanx is not installed where it was to run
    is_refused: bool = False  # what Ray was asked to start is wrong: nothing was started


FromDriver = Connected | Refused | Seen | PlaceRefused | AgentEnded

_encoder = msgspec.json.Encoder()
_to_driver: msgspec.json.Decoder[ToDriver] = msgspec.json.Decoder(ToDriver)
_from_driver: msgspec.json.Decoder[FromDriver] = msgspec.json.Decoder(FromDriver)


def as_line(message: msgspec.Struct) -> bytes:
    """A message as it goes through a pipe."""
    return _encoder.encode(message) + b"\n"


def read_to_driver(line: bytes) -> ToDriver:
    """Raises msgspec.DecodeError."""
    return _to_driver.decode(line)


def read_from_driver(line: bytes) -> FromDriver:
    """Raises msgspec.DecodeError."""
    return _from_driver.decode(line)
