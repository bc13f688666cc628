"""All machines that a gateway's ranks run on: its own, and other nodes if there are any."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Protocol

from app.ranks.agreement import agreed_settings, node_facts
from app.ranks.devices import Allotment
from app.ranks.hosts.by_hand import ByHand
from app.ranks.hosts.host import Host, NoRoom
from app.ranks.hosts.local import LocalHost
from app.ranks.hosts.node import NodeHost
from app.ranks.hosts.nodes import Nodes, NodesListener
from app.settings.declaration import Settings
from app.settings.folders import log_folder, socket_folder
from engines import tasks
from engines.contract.node_keys import read_node_keys
from engines.host.network import network_variables
from engines.host.ports import LOOPBACK
from phalanx import __version__

EPOCHS = 2**62


class Hosts(Protocol):
    """The machines of one life of the gateway."""

    @property
    def nodes(self) -> Nodes | None:
        """Those that have agents."""

    @property
    def all(self) -> list[LocalHost | NodeHost]:
        """By the numbers of the nodes."""

    @property
    def ranks(self) -> int:
        """On all of them together."""

    @property
    def waits_for(self) -> str | None:
        """What is missing before all ranks can be started; None where nothing is."""

    def of_rank(self, rank: int) -> Host:
        """Where a rank runs."""

    async def meet(self) -> str:
        """Nodes may join. What ranks run on: cuda or cpu. Raises FatalError."""

    def place(self, groups: Mapping[int, Sequence[int]]) -> None:
        """There are these groups of ranks."""

    def make_room(self, rank: int) -> None:
        """For one more rank, the next one. Raises NoRoom."""

    def give_up(self, rank: int) -> None:
        """The last rank is no more."""

    async def stop(self) -> None:
        """No rank runs any more. May be called twice."""

    def dismiss(self, node: NodeHost) -> None:
        """Nothing runs any more on a node that wants to leave."""


def make_hosts(
    settings: Settings,
    environ: Mapping[str, str],
    allotment: Allotment,
    listener: NodesListener,
    on_failure: tasks.OnFailure,
) -> Hosts:
    """As the settings say. The gateway's life is numbered by chance."""
    epoch = secrets.randbelow(EPOCHS) + 1
    if settings.launcher == "ray":
        from app.ranks.hosts.ray.hosts import RayHosts  # nobody else pays for it

        return RayHosts(settings, environ, epoch, listener, on_failure)
    return HandHosts(settings, environ, allotment, epoch, listener, on_failure)


class HandHosts:
    """This machine, and the nodes whose agents people start: all have the same number of ranks."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        allotment: Allotment,
        epoch: int,
        listener: NodesListener,
        on_failure: tasks.OnFailure,
    ) -> None:
        address = LOOPBACK
        self.nodes: Nodes | None = None
        self._settings = settings
        self._device = allotment.device
        self._per_node = len(allotment.shares)
        if settings.node_size > 1:
            address = settings.master_addr
            environ = {**environ, **network_variables(environ, address)}
            keys = read_node_keys(settings.node_keys_file) if settings.node_keys_file else None
            organizer = ByHand(settings, agreed_settings(settings, allotment.device), __version__, on_failure)
            self.nodes = Nodes(keys, epoch, organizer, listener, on_failure)
            for number in range(1, settings.node_size):
                self.nodes.add(range(number * self._per_node, (number + 1) * self._per_node))
        folder = log_folder(settings, environ)
        self.local = LocalHost(environ, folder, socket_folder(), node_facts(allotment), epoch, address)

    @property
    def all(self) -> list[LocalHost | NodeHost]:
        """By the numbers of the nodes."""
        return [self.local, *(self.nodes.hosts if self.nodes else [])]

    @property
    def ranks(self) -> int:
        """On all of them together."""
        return self._per_node * len(self.all)

    @property
    def waits_for(self) -> str | None:
        """Nodes where no rank can be started now."""
        missing = [host.number for host in self.all if not host.is_present]
        return f"waiting for node {', '.join(map(str, missing))}" if missing else None

    def of_rank(self, rank: int) -> Host:
        """Where a rank runs."""
        return next(host for host in self.all if rank in host.seats)

    async def meet(self) -> str:
        """Nodes may join."""
        if self.nodes is not None:
            self.nodes.start(self._settings.node_endpoint)
        return self._device

    def place(self, groups: Mapping[int, Sequence[int]]) -> None:
        """Where each rank runs is settled."""

    def make_room(self, rank: int) -> None:
        """On the node that has the most."""
        free = {host.number: _free_seats(host) for host in self.all if host.is_present}
        number = max(free, key=lambda number: (len(free[number]), -number))
        if not free[number]:
            what = "GPUs" if self._device == "cuda" else "cores"
            raise NoRoom(f"rank {rank} has no place: all {what} of the nodes that are there ({len(free)}) have ranks")
        self.all[number].seats[rank] = free[number][0]

    def give_up(self, rank: int) -> None:
        """Its seat is free."""
        for host in self.all:
            host.seats.pop(rank, None)

    async def stop(self) -> None:
        """No rank runs any more. May be called twice."""
        if self.nodes is not None:
            await self.nodes.stop()
        self.local.close()

    def dismiss(self, node: NodeHost) -> None:
        """Nothing runs any more on a node that wants to leave."""
        if self.nodes is not None:
            self.nodes.dismiss(node)


def _free_seats(host: LocalHost | NodeHost) -> list[int]:
    facts = host.facts
    return [] if facts is None else sorted({*range(len(facts.shares) + len(facts.spare))} - {*host.seats.values()})
