"""The other nodes of this gateway: who has joined, who is lost, and what each of their agents is told.

An agent belongs to its gateway for as long as both hear each other. One that is taken for lost and still speaks is
expelled: it ends what it has, and joins anew. So a node that has joined has nothing of ours left on it.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Protocol

import msgspec

from app.errors import FatalError
from app.logs import get_logger
from app.ranks.hosts.node import NodeHost, NodeState
from app.ranks.node_port import NodePort
from app.settings.declaration import Settings, label
from engines import tasks
from engines.contract.node_keys import NodeKeys
from engines.contract.node_protocol import (
    BEAT_S,
    NODE_PROTOCOL_VERSION,
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


class Nodes:
    """Listens at master_addr:master_port."""

    def __init__(
        self,
        settings: Settings,
        keys: NodeKeys | None,
        agreed: Mapping[str, str],
        version: str,
        epoch: int,
        listener: NodesListener,
        on_failure: tasks.OnFailure,
    ) -> None:
        self._settings = settings
        self._agreed = agreed
        self._version = version
        self._epoch = epoch
        self._listener = listener
        self._on_failure = on_failure
        endpoint = settings.node_endpoint
        self.port = NodePort(endpoint, keys, self._on_stranger, self._on_broken)
        per_node = settings.ranks_per_node or 1
        self.hosts = [
            NodeHost(number, number * per_node, endpoint, self.port, epoch) for number in range(1, settings.node_size)
        ]
        self._beating: asyncio.Task[None] | None = None
        self._began = time.monotonic()
        self._has_met = False  # all of them, once; or the deadline of that has passed
        logger.info(
            "nodes_awaited", endpoint=endpoint, nodes=[host.number for host in self.hosts], encrypted=bool(keys)
        )

    def start(self) -> None:
        """Agents may join."""
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

    # -- once a second

    async def _beat(self) -> None:
        while True:
            now = time.monotonic()
            for host in self.hosts:
                if host.agent is None or host.heard_at is None:
                    continue
                if not host.tell(GatewayBeat()):
                    self._lose(host, f"node {host.number} ({host.name}) broke off its connection")
                elif now - host.heard_at > SILENCE_S:
                    host.tell(Expelled())
                    self._lose(host, f"node {host.number} ({host.name}) has been silent for {SILENCE_S:g} s")
            self._check_first_meeting(now)
            await asyncio.sleep(BEAT_S)

    def _check_first_meeting(self, now: float) -> None:
        if self._has_met:
            return
        never = [host.number for host in self.hosts if host.state is NodeState.MISSING]
        limit_s = self._settings.node_timeout_s
        if not never:
            self._has_met = True
        elif now - self._began > limit_s:
            self._has_met = True
            who = f"node {never[0]} has" if len(never) == 1 else f"nodes {', '.join(map(str, never))} have"
            self._on_failure(
                "first meeting",
                FatalError(
                    f"{who} not joined within {limit_s:g} s ({label('node_timeout_s')}): start `phalanx serve "
                    f"--node-rank {never[0]} ...` there, and see that it reaches {self.port.endpoint}",
                    1,
                ),
            )

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
                self._let_go(host)
            else:
                host.hear(message)

    def _let_in(self, name: bytes, join: Join) -> None:
        reason = self._objection(join)
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
            self._tell(host.agent, Expelled())
            self._lose(host, f"node {host.number} ({host.name}) was started anew")
        host.join(name, join.version, join.facts)
        self._tell(name, Welcome(epoch=self._epoch))
        logger.info("node_joined", node=host.number, name=host.name, device=join.facts.device, cores=join.facts.cores)
        self._listener.node_joined(host)

    def _objection(self, join: Join) -> str | None:
        """Why an agent can never join; None if it may."""
        settings = self._settings
        if join.protocol != NODE_PROTOCOL_VERSION or join.version != self._version:
            return (
                f"it is Phalanx {join.version} (protocol {join.protocol}), and node 0 is {self._version} "
                f"({NODE_PROTOCOL_VERSION}): install the same on all nodes"
            )
        if not 0 < join.node < settings.node_size:
            most = settings.node_size - 1
            return f"{label('node_rank')} is {join.node}: with {settings.node_size} nodes it must be 1 to {most}"
        names = sorted({*join.agreed, *self._agreed})
        differing = [name for name in names if join.agreed.get(name) != self._agreed.get(name)]
        if differing:
            name = differing[0]
            theirs, ours = join.agreed.get(name), self._agreed.get(name)
            more = f" (and {len(differing) - 1} more differ)" if len(differing) > 1 else ""
            return f"{name} is {theirs} on node {join.node} and {ours} on node 0{more}: start all nodes with the same"
        return None

    def _let_go(self, host: NodeHost) -> None:
        if host.state is NodeState.JOINED:
            logger.info("node_leaving", node=host.number, name=host.name)
            host.leave()
            self._listener.node_leaving(host)

    def _lose(self, host: NodeHost, reason: str) -> None:
        if host.state is NodeState.LEAVING:
            logger.info("node_left", node=host.number, name=host.name)
        else:
            logger.error("node_lost", node=host.number, reason=reason)
        host.lose(reason)

    def _tell(self, name: bytes, message: NodeMessage) -> None:
        self.port.send(name, encode_node(message))

    def _on_broken(self, reason: str) -> None:
        self._on_failure("nodes", FatalError(reason, 1))
