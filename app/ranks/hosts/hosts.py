"""All machines that a gateway's ranks run on: its own, and other nodes if there are any."""

import secrets
from collections.abc import Mapping

from app.ranks.agreement import agreed_settings, node_facts
from app.ranks.devices import Allotment
from app.ranks.hosts.host import Host
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


class Hosts:
    """The machines of one life of the gateway, which is numbered by chance: `epoch`."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        allotment: Allotment,
        listener: NodesListener,
        on_failure: tasks.OnFailure,
    ) -> None:
        epoch = secrets.randbelow(EPOCHS) + 1
        address = LOOPBACK
        self.nodes: Nodes | None = None
        if settings.node_size > 1:
            address = settings.master_addr
            environ = {**environ, **network_variables(environ, address)}
            keys = read_node_keys(settings.node_keys_file) if settings.node_keys_file else None
            agreed = agreed_settings(settings, allotment.device)
            self.nodes = Nodes(settings, keys, agreed, __version__, epoch, listener, on_failure)
        folder = log_folder(settings, environ)
        self.local = LocalHost(environ, folder, socket_folder(), node_facts(allotment), epoch, address)
        self._per_node = len(allotment.shares)

    @property
    def all(self) -> list[LocalHost | NodeHost]:
        """By the numbers of the nodes."""
        return [self.local, *(self.nodes.hosts if self.nodes else [])]

    @property
    def ranks(self) -> int:
        """On all of them together."""
        return self._per_node * len(self.all)

    @property
    def missing(self) -> list[int]:
        """Nodes where no rank can be started now."""
        return [host.number for host in self.all if not host.is_present]

    def of_rank(self, rank: int) -> Host:
        """Where a rank runs."""
        return self.all[rank // self._per_node]

    def start(self) -> None:
        """Nodes may join."""
        if self.nodes is not None:
            self.nodes.start()

    async def stop(self) -> None:
        """No rank runs any more. May be called twice."""
        if self.nodes is not None:
            await self.nodes.stop()
        self.local.close()

    def dismiss(self, node: NodeHost) -> None:
        """Nothing runs any more on a node that wants to leave."""
        if self.nodes is not None:
            self.nodes.dismiss(node)
