"""The machines of a gateway whose ranks Ray places: each rank has a bundle, and an agent of its own there.

A node is such an agent; several may be on one machine. Node N has rank N - 1, wherever Ray puts it. The gateway's own
machine, node 0, has no ranks but those that Ray places there.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from app.errors import FatalError
from app.ranks.agreement import node_facts
from app.ranks.devices import Allotment
from app.ranks.hosts.local import LocalHost
from app.ranks.hosts.node import NodeHost
from app.ranks.hosts.nodes import Nodes, NodesListener
from app.ranks.hosts.ray.messages import PlacedAgent, as_line
from app.ranks.hosts.ray.placement import Placement, Wanted
from app.ranks.hosts.ray.placer import Placer
from app.settings.declaration import EngineSettings, Settings, label
from app.settings.folders import log_folder, socket_folder
from engines import tasks
from engines.contract.spec import EngineKind
from engines.host.network import own_address_towards
from engines.host.wire import new_keys
from phalanx import __version__

DRIVER_LOG = "ray-driver.log"
TOLD = (  # settings that an agent is told
    *("model", "engine", "dp_size", "tp_size", "executor", "expert_parallel", "cpu_kv_cache_gib", "engine_args"),
    *("extra_args", "port", "log_dir", "log_format", "log_level", "log_prompts", "drain_timeout_s", "stop_timeout_s"),
    *("node_timeout_s", *EngineSettings.model_fields),
)


class RayHosts:
    """The machines of one life of the gateway, `epoch`."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        epoch: int,
        listener: NodesListener,
        on_failure: tasks.OnFailure,
    ) -> None:
        self._settings = settings
        self._keys = new_keys()  # Ray hands them to the agents
        folder = log_folder(settings, environ)
        nowhere = node_facts(Allotment("cpu", ()))
        self.local = LocalHost(environ, folder, socket_folder(), nowhere, epoch)
        self._placer = Placer(
            settings, environ, folder / DRIVER_LOG, __version__, self.of_rank, self._expel, self._let_go, on_failure
        )
        self.nodes = Nodes(self._keys, epoch, self._placer, listener, on_failure)
        for rank in range(settings.dp_size or 0):
            self.nodes.add([rank])
        self._device = "cpu"

    @property
    def all(self) -> list[LocalHost | NodeHost]:
        """By the numbers of the nodes."""
        return [self.local, *self.nodes.hosts]

    @property
    def ranks(self) -> int:
        """On all of them together."""
        return len(self.nodes.hosts)

    @property
    def waits_for(self) -> str | None:
        """What is missing before all ranks can be started; None where nothing is."""
        missing = self._placer.waits_for()
        return missing and f"waiting for Ray: {missing}"

    def of_rank(self, rank: int) -> NodeHost:
        """Where a rank runs."""
        return self.nodes.hosts[rank]

    async def meet(self) -> str:
        """There is a cluster. Its device: cuda or cpu. Raises FatalError."""
        found = await self._placer.meet()
        settings = self._settings
        address = settings.master_addr or found.address or _own_address(settings)
        host = f"[{address}]" if ":" in address else address
        try:
            self.nodes.start(f"tcp://{host}:{settings.master_port}")
        except OSError as error:
            raise FatalError(f"{label('master_addr')}: {error}; name an address of this machine", 2) from None
        if settings.device == "auto":
            self._device = "cuda" if found.has_gpus and settings.engine is EngineKind.VLLM else "cpu"
        else:
            self._device = settings.device
        return self._device

    def place(self, groups: Mapping[int, Sequence[int]]) -> None:
        """Begins to place these groups of ranks."""
        self._placer.place([self._placement(group, ranks) for group, ranks in groups.items()])

    def make_room(self, rank: int) -> None:
        """Ray finds it, when it is placed."""
        self.nodes.add([rank])

    def give_up(self, rank: int) -> None:
        """Its group is the rank itself, and its bundle is free."""
        host = self.nodes.hosts[-1]
        if host.is_present:
            host.leave()
            self.nodes.dismiss(host)
        self._placer.remove(rank)
        self.nodes.hosts.pop()

    async def stop(self) -> None:
        """No rank runs any more. May be called twice."""
        for host in self.nodes.hosts:
            if host.is_present:
                host.leave()
                self.nodes.dismiss(host)
        await self._placer.stop()
        await self.nodes.stop()
        self.local.close()

    def dismiss(self, node: NodeHost) -> None:
        """Nothing runs any more on a node that is drained."""
        self.nodes.dismiss(node)

    def _expel(self, node: NodeHost, reason: str) -> None:
        self.nodes.expel(node, reason)

    def _let_go(self, node: NodeHost) -> None:
        self.nodes.let_go(node)

    def _placement(self, group: int, ranks: Sequence[int]) -> Placement:
        settings = self._settings
        gpus = settings.tp_size if self._device == "cuda" else 0
        least = {"GPU": float(gpus), "CPU": 1.0} if gpus else {"CPU": float(settings.tp_size)}
        wanted = Wanted(
            bundle=least | {name: float(amount) for name, amount in settings.ray_resources.items()},
            strategy=settings.ray_strategy.upper(),
            gpus=gpus,
            runtime_env=settings.ray_runtime_env,
        )
        return Placement(group, list(ranks), wanted, self._told)

    def _told(self, rank: int, ticket: str) -> str:
        values = self._settings.model_dump(mode="json", include=set(TOLD), exclude_defaults=True)
        if self._settings.model is not None and Path(self._settings.model).is_dir():
            values["model"] = str(Path(self._settings.model).absolute())  # the same place on each node
        agent = PlacedAgent(
            node=self.of_rank(rank).number,
            ticket=ticket,
            endpoint=self.nodes.port.endpoint,
            keys=self._keys,
            device=self._device,
            settings=values,
        )
        return as_line(agent).decode().strip()


def _own_address(settings: Settings) -> str:
    """Towards a cluster that this machine is no part of. Raises FatalError."""
    host = settings.ray_address.partition("://")[2].rpartition(":")[0].strip("[]")
    try:
        return own_address_towards(host)
    except OSError as error:
        problem = (
            f"{label('master_addr')} is missing, and this machine's address towards {host!r} is not known ({error})"
        )
        raise FatalError(f"{problem}: say which address the cluster's nodes reach the gateway at", 2) from None
