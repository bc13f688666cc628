"""The nodes of this gateway that have agents: who has joined, who is lost, and what each agent is told.

An agent belongs to its gateway for as long as both hear each other. One that is taken for lost and still speaks is
expelled: it ends what it has, and joins anew. So a node that has joined has nothing of ours left on it.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from app.errors import FatalError
from app.logs import get_logger
from app.ranks.hosts.node import NodeHost, NodeState
from app.ranks.node_port import NodePort
from engines import tasks
from engines.contract.node_keys import NodeKeys
from engines.contract.node_protocol import (
    BEAT_S,
    SILENCE_S,
    Expelled,
    Farewell,
    GatewayBeat,
    Join,
    Leaving,
    NodeMessage,
    Refused,
    Welcome,
    decode_from_agent,
    encode_node,
)

logger = get_logger("nodes")


class NodesListener(Protocol):
    """Who has ranks on the nodes."""

    def node_joined(self, node: NodeHost) -> None:
        """Ranks can be started there."""

    def node_leaving(self, node: NodeHost) -> None:
        """It waits for its ranks to be drained."""


class Organizer(Protocol):
    """Who has the agents started, and knows which there are to be."""

    def objection(self, join: Join) -> str | None:
        """Why an agent can never join; None if it may."""

    def look(self, hosts: Sequence[NodeHost]) -> None:
        """Once a second."""

    def lost(self, host: NodeHost, reason: str) -> None:
        """One has been lost, or has left."""


class Nodes:
    """Listens for agents once it is started. Nodes are numbered from 1: node 0 is the gateway's own machine."""

    def __init__(
        self,
        keys: NodeKeys | None,
        epoch: int,
        organizer: Organizer,
        listener: NodesListener,
        on_failure: tasks.OnFailure,
    ) -> None:
        self.hosts: list[NodeHost] = []
        self.port = NodePort(keys, self._on_stranger, self._on_broken)
        self._is_encrypted = keys is not None
        self._epoch = epoch
        self._organizer = organizer
        self._listener = listener
        self._on_failure = on_failure
        self._beating: asyncio.Task[None] | None = None

    def add(self, ranks: Iterable[int]) -> NodeHost:
        """One more node, of these ranks."""
        host = NodeHost(len(self.hosts) + 1, ranks, self.port, self._epoch)
        self.hosts.append(host)
        return host

    def start(self, endpoint: str) -> None:
        """Agents may join there. Raises OSError."""
        self.port.bind(endpoint)
        numbers = [host.number for host in self.hosts]
        logger.info("nodes_awaited", endpoint=self.port.endpoint, nodes=numbers, encrypted=self._is_encrypted)
        self._beating = tasks.start(self._beat(), "nodes", self._on_failure)

    async def stop(self) -> None:
        """Nothing runs on them any more; their agents wait for the next gateway."""
        await tasks.end(self._beating)
        self.port.close()

    def dismiss(self, node: NodeHost) -> None:
        """Nothing runs any more on a node that wants to leave."""
        if node.state is NodeState.LEAVING:
            node.tell(Farewell())
            self._lose(node, f"node {node.number} ({node.name}) has left")

    def expel(self, node: NodeHost, reason: str) -> None:
        """It is taken for lost, whatever its agent believes. Does nothing where it has not joined."""
        if node.agent is not None:
            node.tell(Expelled())
            self._lose(node, reason)

    def let_go(self, node: NodeHost) -> None:
        """It is about to end: what it has is finished, and nothing new is started there."""
        if node.state is NodeState.JOINED:
            logger.info("node_leaving", node=node.number, name=node.name)
            node.leave()
            self._listener.node_leaving(node)

    # -- once a second

    async def _beat(self) -> None:
        while True:
            now = time.monotonic()
            for host in list(self.hosts):
                if host.agent is None or host.heard_at is None:
                    continue
                if not host.tell(GatewayBeat()):
                    self._lose(host, f"node {host.number} ({host.name}) broke off its connection")
                elif now - host.heard_at > SILENCE_S:
                    host.tell(Expelled())
                    self._lose(host, f"node {host.number} ({host.name}) has been silent for {SILENCE_S:g} s")
            self._organizer.look(self.hosts)
            await asyncio.sleep(BEAT_S)

    # -- what agents say

    def _on_stranger(self, name: bytes, frame: bytes) -> None:
        """What comes from nobody's rank: agents, and ranks that nobody expects any more."""
        try:
            message = decode_from_agent(frame)
        except msgspec.DecodeError:
            return  # a rank of a life that is over; it ends with its guardian
        host = next((host for host in self.hosts if host.agent == name), None)
        if isinstance(message, Join):
            self._let_in(name, message)
        elif host is None or message.epoch != self._epoch:
            self._tell(name, Expelled())
        else:
            host.heard()
            if isinstance(message, Leaving):
                self.let_go(host)
            else:
                host.hear(message)

    def _let_in(self, name: bytes, join: Join) -> None:
        reason = self._organizer.objection(join)
        if reason is not None:
            logger.warning("node_refused", node=join.node, name=join.facts.name, reason=reason)
            self._tell(name, Refused(reason=reason, is_final=True))
            return
        host = self.hosts[join.node - 1]
        if host.agent is not None and host.agent != name:
            if host.is_heard and host.tell(GatewayBeat()):  # it is alive: another one cannot have its place
                reason = f"node {join.node} is {host.name} (pid {host.facts.pid if host.facts else None}) already"
                logger.warning("node_refused", node=join.node, name=join.facts.name, reason=reason)
                self._tell(
                    name, Refused(reason=f"{reason}: choose another --node-rank, or end that one", is_final=True)
                )
                return
            self.expel(host, f"node {host.number} ({host.name}) was started anew")
        host.join(name, join.version, join.facts)
        self._tell(name, Welcome(epoch=self._epoch))
        logger.info("node_joined", node=host.number, name=host.name, device=join.facts.device, cores=join.facts.cores)
        self._listener.node_joined(host)

    def _lose(self, host: NodeHost, reason: str) -> None:
        if host.state is NodeState.LEAVING:
            logger.info("node_left", node=host.number, name=host.name)
        else:
            logger.error("node_lost", node=host.number, reason=reason)
        host.lose(reason)
        self._organizer.lost(host, reason)

    def _tell(self, name: bytes, message: NodeMessage) -> None:
        self.port.send(name, encode_node(message))

    def _on_broken(self, reason: str) -> None:
        self._on_failure("nodes", FatalError(reason, 1))
