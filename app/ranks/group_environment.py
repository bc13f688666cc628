"""What all groups of a gateway have around them: the settings, the plan, and the machines that their ranks run on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.ranks.events import LossKind
from app.ranks.hosts.host import Host
from app.ranks.plan import Plan
from app.ranks.rank import Rank
from app.settings.declaration import Settings
from engines.contract.spec import GroupKind, LockstepAddress


@dataclass(frozen=True)
class GroupEnvironment:
    """The same for all of them."""

    settings: Settings
    plan: Plan
    host_of: Callable[[int], Host]  # by the number of a rank

    def divide(self, ranks: Sequence[Rank]) -> dict[int, list[Rank]]:
        """These ranks by group. Each knows its own from now on."""
        found: dict[int, list[Rank]] = {}
        for rank in ranks:
            rank.group = self.plan.group_of(rank.number)
            found.setdefault(rank.group, []).append(rank)
        return found

    def gpus_by_host(self, ranks: Sequence[Rank]) -> list[tuple[Host, list[str]]]:
        """The hosts of some ranks, each with the GPUs that these ranks have there."""
        found: dict[int, tuple[Host, list[str]]] = {}
        for rank in ranks:
            host = self.host_of(rank.number)
            found.setdefault(id(host), (host, []))[1].extend(rank.share.gpus)
        return list(found.values())

    def open_hosts(self, ranks: Sequence[Rank]) -> None:
        """Makes the hosts of these ranks ready for them. Raises OSError."""
        for host, _ in self.gpus_by_host(ranks):
            host.open()

    def absent(self, ranks: Sequence[Rank]) -> list[int]:
        """The nodes that these ranks cannot be started on now."""
        return sorted({host.number for rank in ranks if not (host := self.host_of(rank.number)).is_present})

    def kind_of_loss(self, ranks: Sequence[Rank], *, was_ready: bool) -> LossKind:
        """How a group is lost one of whose ranks has ended, or says that it must. A connection that breaks with its
        node ends a rank, and the ranks that work with that one; this may be noticed before the loss of the node."""
        if any(self.host_of(rank.number).may_be_lost() for rank in ranks):
            return LossKind.NODE_LOST
        return LossKind.DIED if was_ready else LossKind.CANNOT_START

    async def lockstep_address(self, ranks: Sequence[Rank]) -> LockstepAddress | None:
        """Where the ranks of a lock-step group meet; None for replicas. Raises OSError."""
        if self.plan.group_kind is not GroupKind.LOCKSTEP:
            return None
        return await self.host_of(ranks[0].number).lockstep_address()

    async def take_memory_baseline(self, ranks: Sequence[Rank]) -> None:
        """Notes what of these ranks' GPUs is in use before they are started."""
        for host, gpus in self.gpus_by_host(_alone(ranks)):
            await host.take_memory_baseline(gpus)

    async def await_free_memory(self, ranks: Sequence[Rank]) -> None:
        """Returns once no more of it is in use than then."""
        for host, gpus in self.gpus_by_host(_alone(ranks)):
            await host.await_free_memory(gpus)


def _alone(ranks: Sequence[Rank]) -> list[Rank]:
    """Those that share no GPU. What is in use on a shared one says nothing of one rank's."""
    return [rank for rank in ranks if rank.share.ranks_per_gpu == 1]
