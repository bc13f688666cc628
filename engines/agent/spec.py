"""What a node agent is told when it is started, by `phalanx serve --node-rank N` or by whoever places it."""

import msgspec

from engines.contract.node_protocol import NodeFacts


class AgentSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that an agent needs to know, but for its environment variables."""

    node: int
    endpoint: str  # the gateway's port for nodes, tcp://
    keys_file: str | None
    version: str  # of Phalanx
    agreed: dict[str, str]  # settings that must be the gateway's own
    facts: NodeFacts
    model: str | None  # where the model lies on this machine; None: where the gateway says
    log_dir: str
    socket_dir: str
    address: str  # of this machine, as the other nodes reach it
    network: dict[str, str]  # variables of the ranks that name this node's address and interface
    meeting_timeout_s: float  # for the gateway to answer for the first time
    leave_timeout_s: float  # for the ranks to be drained and stopped when the agent is asked to end
    is_placed: bool = False  # it has one life with one gateway, and ends with its standard input; else it dials again
