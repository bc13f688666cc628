"""Nodes whose agents people start: the same command on each, which has to have the same settings."""

import time
from collections.abc import Mapping, Sequence

from app.errors import FatalError
from app.ranks.hosts.node import NodeHost, NodeState
from app.settings.declaration import Settings, label
from engines import tasks
from engines.contract.node_protocol import NODE_PROTOCOL_VERSION, Join


class ByHand:
    """An Organizer. `agreed` are node 0's settings that all have to have."""

    def __init__(
        self, settings: Settings, agreed: Mapping[str, str], version: str, on_failure: tasks.OnFailure
    ) -> None:
        self._settings = settings
        self._agreed = agreed
        self._version = version
        self._on_failure = on_failure
        self._began = time.monotonic()
        self._has_met = False  # all of them, once; or the deadline of that has passed

    def look(self, hosts: Sequence[NodeHost]) -> None:
        """Whether all meet in time, the first time."""
        if self._has_met:
            return
        never = [host.number for host in hosts if host.state is NodeState.MISSING]
        limit_s = self._settings.node_timeout_s
        if not never:
            self._has_met = True
        elif time.monotonic() - self._began > limit_s:
            self._has_met = True
            who = f"node {never[0]} has" if len(never) == 1 else f"nodes {', '.join(map(str, never))} have"
            self._on_failure(
                "first meeting",
                FatalError(
                    f"{who} not joined within {limit_s:g} s ({label('node_timeout_s')}): start `phalanx serve "
                    f"--node-rank {never[0]} ...` there, and see that it reaches {self._settings.node_endpoint}",
                    1,
                ),
            )

    def lost(self, host: NodeHost, reason: str) -> None:
        """Its agent dials again by itself."""

    def objection(self, join: Join) -> str | None:
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
