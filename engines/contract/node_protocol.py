"""The messages between the gateway and a node agent: one msgspec struct per message, msgpack on the wire.

An agent joins, is welcomed or refused, and from then on starts and ends ranks as it is told. Both say something once a
second; whoever hears nothing for SILENCE_S takes the other for lost. After the welcome every message carries the epoch
of the gateway's life.
"""

from typing import Any

import msgspec

from engines.contract.spec import LockstepAddress, RankSpec, RankVariables, Share

NODE_PROTOCOL_VERSION = 2
BEAT_S = 1.0
SILENCE_S = 10.0  # much longer than an event loop may be busy, and short enough to run items elsewhere
MOST_FRAME_BYTES = 2**30  # of one message on the wire; a peer that sends more is cut off


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says of its machine."""

    name: str  # the hostname
    pid: int
    device: str  # "cuda" or "cpu"
    cores: int
    gpus: list[str]  # that its ranks have, as CUDA_VISIBLE_DEVICES names them
    shares: list[Share]  # of its ranks, in order
    spare: list[Share] = []  # what more ranks could have
    ray_node_id: str | None = None  # of the node that Ray has started the agent on
    ticket: str = ""  # which start of an agent this is, where somebody else than a person starts them


class NodeMessage(msgspec.Struct, array_like=True, tag=True, kw_only=True):
    """What every message has in common."""

    epoch: int = 0  # of the gateway that the agent was welcomed by; 0 before that


# ---------------------------------------------------------------- agent -> gateway


class Join(NodeMessage):
    """The first message of an agent. A gateway of another version refuses it, and can: the fields never change."""

    protocol: int
    version: str  # of Phalanx
    node: int
    agreed: dict[str, str]  # settings that must be the gateway's own, as JSON, by name
    facts: NodeFacts


class AgentBeat(NodeMessage):
    """The agent lives."""


class Leaving(NodeMessage):
    """The agent was asked to end: it waits for its ranks to be drained."""


class RankStarted(NodeMessage):
    """The answer to StartRank. `error` says why not."""

    rank: int
    incarnation: int
    error: str | None = None


class RankEnded(NodeMessage):
    """All processes of a rank have ended; see HostedRank.wait for the code."""

    rank: int
    incarnation: int
    exit_code: int


class RankCleared(NodeMessage):
    """The answer to ClearRank: nothing of it is left."""

    rank: int
    incarnation: int


class RankPrinted(NodeMessage):
    """The end of a rank's log, whenever there is more."""

    rank: int
    incarnation: int
    path: str
    end: str


class PulseTaken(NodeMessage):
    """The answer to TakePulse."""

    rank: int
    incarnation: int
    stopped: str | None
    is_asleep: bool


class MemoryDone(NodeMessage):
    """The answer to NoteMemory and AwaitMemory."""

    request: int


class MeetingFound(NodeMessage):
    """The answer to FindMeeting. `error` says why there is no address."""

    request: int
    address: LockstepAddress | None
    error: str | None = None


FromAgent = (
    Join
    | AgentBeat
    | Leaving
    | RankStarted
    | RankEnded
    | RankCleared
    | RankPrinted
    | PulseTaken
    | MemoryDone
    | MeetingFound
)

# ---------------------------------------------------------------- gateway -> agent


class Welcome(NodeMessage):
    """The agent belongs to this gateway from now on."""


class Refused(NodeMessage):
    """The agent cannot join, and why. `is_final`: it would be refused again."""

    reason: str
    is_final: bool


class GatewayBeat(NodeMessage):
    """The gateway lives."""


class Expelled(NodeMessage):
    """The gateway has taken the agent for lost: it ends its ranks, and joins anew."""


class Farewell(NodeMessage):
    """Nothing of the gateway's runs on the node any more: an agent that is leaving may go."""


class StartRank(NodeMessage):
    """Starts one life of a rank."""

    spec: RankSpec
    variables: RankVariables


class EndRank(NodeMessage):
    """Ends a rank's processes without asking it."""

    rank: int
    incarnation: int


class ClearRank(NodeMessage):
    """Ends what a killed guardian has left behind."""

    rank: int
    incarnation: int


class TakePulse(NodeMessage):
    """Asks what the kernel says of a rank's processes. `got_on`: it has made progress since the last look."""

    rank: int
    incarnation: int
    got_on: bool
    title: str
    pid: int | None
    engine: dict[str, int]


class NoteMemory(NodeMessage):
    """Asks to note the memory in use on these GPUs."""

    request: int
    gpus: list[str]


class AwaitMemory(NodeMessage):
    """Asks to be told once no more is in use on them than was noted, or after a while."""

    request: int
    gpus: list[str]


class FindMeeting(NodeMessage):
    """Asks for fresh ports of the node, where a lock-step group can meet whose first rank runs there."""

    request: int


ToAgent = (
    Welcome
    | Refused
    | GatewayBeat
    | Expelled
    | Farewell
    | StartRank
    | EndRank
    | ClearRank
    | TakePulse
    | NoteMemory
    | AwaitMemory
    | FindMeeting
)

_encoder = msgspec.msgpack.Encoder()
_to_agent: msgspec.msgpack.Decoder[ToAgent] = msgspec.msgpack.Decoder(ToAgent)
_from_agent: msgspec.msgpack.Decoder[FromAgent] = msgspec.msgpack.Decoder(FromAgent)


def encode_node(message: NodeMessage) -> bytes:
    """The message as it goes over the wire."""
    return _encoder.encode(message)


def decode_to_agent(frame: bytes | memoryview) -> ToAgent:
    """A message from the gateway. Raises msgspec.DecodeError for anything else."""
    return _to_agent.decode(frame)


def decode_from_agent(frame: bytes | memoryview) -> FromAgent:
    """A message from an agent. Raises msgspec.DecodeError for anything else."""
    return _from_agent.decode(frame)


def as_agreed(values: dict[str, Any]) -> dict[str, str]:  # Any: values of settings
    """Settings as `Join.agreed` has them."""
    return {name: msgspec.json.encode(value).decode() for name, value in sorted(values.items())}
