"""The gateway's own machine as a host of ranks, which it reaches over sockets in a private folder."""

from collections.abc import Mapping
from pathlib import Path

from app.ranks.channel import RankChannel, new_context
from app.ranks.hosts.host import OnBroken, OnMessage
from engines.contract.node_protocol import NodeFacts
from engines.contract.spec import Share
from engines.host.machine import Machine
from engines.host.ports import LOOPBACK


class LocalHost(Machine):
    """A Host, node 0. `facts` say what parts of this machine its ranks have; the first is rank 0's."""

    number = 0
    ray_node_id = None
    is_present = True
    is_heard = True

    def __init__(
        self,
        environ: Mapping[str, str],
        log_dir: Path,
        socket_dir: Path,
        facts: NodeFacts,
        epoch: int,
        address: str = LOOPBACK,
    ) -> None:
        super().__init__(environ, log_dir, socket_dir, address)
        self.facts = facts
        self.seats = dict(enumerate(range(len(facts.shares))))  # of each rank, among the shares and then the spare ones
        self._epoch = epoch
        self._context = new_context()

    def close(self) -> None:
        """Removes the folder of the sockets."""
        self._context.destroy(linger=0)  # term would wait for a socket that somebody forgot
        super().close()

    def may_be_lost(self) -> bool:
        """It is the gateway's own."""
        return False

    def share(self, rank: int) -> Share:
        """What the rank has of this machine."""
        return [*self.facts.shares, *self.facts.spare][self.seats[rank]]

    def connect(self, rank: int, incarnation: int, on_message: OnMessage, on_broken: OnBroken) -> RankChannel:
        """Over a socket of its own."""
        path = self._folder / f"{rank}.{incarnation}.sock"
        return RankChannel(self._context, path, self._epoch, on_message, on_broken)
