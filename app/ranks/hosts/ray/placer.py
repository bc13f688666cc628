"""Places the groups of a gateway in a Ray cluster, and keeps them there: the Organizer of nodes that Ray places.

One driver after another (driver_process.py): when one is lost, so is all that it had placed, and the next one places
everything anew. What each group needs next is decided in placement.py.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from app.errors import FatalError
from app.logs import get_logger
from app.ranks.hosts.node import NodeHost
from app.ranks.hosts.ray.driver_process import DriverLost, DriverProcess
from app.ranks.hosts.ray.faults import disagreement, misplacement, what_is_to_be_mended
from app.ranks.hosts.ray.groups import PlacedGroups
from app.ranks.hosts.ray.messages import AgentEnded, Connected, FromDriver, PlaceRefused, Seen
from app.ranks.hosts.ray.placement import NOT_YET, STARTING, Placement
from app.settings.declaration import Settings, label
from engines import tasks
from engines.contract.node_protocol import NODE_PROTOCOL_VERSION, Join

logger = get_logger("ray")
LONGEST_PAUSE_S = 30.0  # between two drivers
STAYED_S = 60.0  # a driver that lived for so long was no failure


class Placer:
    """An Organizer. `hosts` are the nodes by the numbers of their ranks; `expel` and `let_go` are the membership's."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        log_file: Path,
        version: str,
        host_of: Callable[[int], NodeHost],
        expel: Callable[[NodeHost, str], None],
        let_go: Callable[[NodeHost], None],
        on_failure: tasks.OnFailure,
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._log_file = log_file
        self._version = version
        self._host_of = host_of
        self._expel = expel
        self._let_go = let_go
        self._on_failure = on_failure
        self._driver: DriverProcess | None = None
        self._groups = PlacedGroups()
        self._living: asyncio.Task[None] | None = None
        self._began = time.monotonic()
        self._said: dict[int, str | None] = {}  # of each group, why it waits
        self._seen: Seen | None = None
        self._trouble: str | None = None  # why there is no driver
        self._is_stopping = False

    # -- life

    async def meet(self) -> Connected:
        """The first driver is part of the cluster. Raises FatalError."""
        try:
            self._driver = await self._start_driver()
            return await self._meet(self._driver)
        except DriverLost as error:
            raise FatalError(f"{label('ray_address')}: {error}{self._hint(error)}", 2) from None
        except OSError as error:
            raise FatalError(f"the Ray driver cannot be started: {error}", 1) from None

    def place(self, placements: Sequence[Placement]) -> None:
        """Begins to place these groups, which others may follow."""
        self._groups.add(placements)
        if self._living is None:
            self._began = time.monotonic()
            self._living = tasks.start(self._live(), "ray", self._on_failure)

    async def stop(self) -> None:
        """Ends all that was placed. May be called twice."""
        self._is_stopping = True
        await tasks.end(self._living)
        if self._driver is not None:
            await self._driver.stop()
            self._driver = None

    def remove(self, group: int) -> None:
        """It is not needed any more, and nothing runs there."""
        placement = self._groups.pop(group)
        self._said.pop(group, None)
        if placement is not None and self._driver is not None:
            for order in placement.release():
                self._driver.send(order)

    def waits_for(self) -> str | None:
        """Why some groups have no place, in words for everybody; None while all have one."""
        return self._trouble or self._groups.waits_for()

    # -- one driver after another

    async def _live(self) -> None:
        pause_s = 1.0
        while True:
            began = time.monotonic()
            reason = await self._serve()
            self._lose_all(reason)
            pause_s = 1.0 if time.monotonic() - began > STAYED_S else min(LONGEST_PAUSE_S, pause_s * 2)
            await asyncio.sleep(pause_s)

    async def _serve(self) -> str:
        """One driver to its end. Returns why it has ended."""
        driver = self._driver
        try:
            if driver is None:
                driver = self._driver = await self._start_driver()
                await self._meet(driver)
            self._trouble = None
            lost = await driver.listen(self._hear)
            reason = f"{lost}{self._hint(lost)}"
        except DriverLost as error:
            reason = f"{error}{self._hint(error)}"
        except OSError as error:
            reason = f"the Ray driver cannot be started: {error}"
        finally:
            if driver is not None and not self._is_stopping:
                self._driver = None
                await driver.kill()
        return reason

    async def _start_driver(self) -> DriverProcess:
        return await DriverProcess.start(self._settings.ray_address, self._environ, self._log_file)

    async def _meet(self, driver: DriverProcess) -> Connected:
        try:
            found = await driver.meet()
        except BaseException:
            await driver.kill()
            self._driver = None
            raise
        logger.info("ray_connected", address=self._settings.ray_address, ray=found.ray_version, driver=driver.pid)
        return found

    def _lose_all(self, reason: str) -> None:
        if self._trouble is None:
            logger.error("ray_lost", reason=reason)
        self._trouble = reason
        for placement in self._groups:
            placement.forget()
            for rank in placement.ranks:
                self._expel(
                    self._host_of(rank), f"node {self._host_of(rank).number} went with its Ray cluster: {reason}"
                )

    def _hint(self, error: DriverLost) -> str:
        return "" if error.is_refusal else f" (its log is {self._log_file})"

    # -- what the driver says

    def _hear(self, message: FromDriver) -> None:
        now = time.monotonic()
        match message:
            case Seen():
                self._seen = message
                for placement in self._groups:
                    self._look_at(placement, message, now)
                self._check_deadline(now)
            case PlaceRefused():
                self._on_place_refused(message, now)
            case AgentEnded():
                self._on_agent_ended(message, now)
            case _:
                pass

    def _look_at(self, placement: Placement, seen: Seen, now: float) -> None:
        self._let_drained_go(placement, seen)
        orders = list(placement.look(seen, now))
        self._expel_replaced(placement)
        for order in orders:
            if self._driver is not None:
                self._driver.send(order)
        self._say(placement)

    def _let_drained_go(self, placement: Placement, seen: Seen) -> None:
        draining = {node.id for node in seen.nodes if node.is_draining}
        for rank in placement.ranks:
            agent = placement.agent_of(rank)
            if agent is not None and agent.is_heard and agent.node_id in draining:
                self._let_go(self._host_of(rank))

    def _expel_replaced(self, placement: Placement) -> None:
        """Agents that are there, and are not what the group has any more."""
        for rank in placement.ranks:
            agent = placement.agent_of(rank)
            if agent is None or not agent.has_joined:
                host = self._host_of(rank)
                self._expel(host, f"node {host.number} has no place in the Ray cluster any more: {placement.waits_for}")

    def _say(self, placement: Placement) -> None:
        """When something has changed."""
        reason = placement.waits_for
        if self._said.get(placement.group, "") == reason or reason in (NOT_YET, STARTING):
            return  # nothing new, or nothing unusual
        self._said[placement.group] = reason
        if reason is None:
            nodes = [self._host_of(rank).name for rank in placement.ranks]
            logger.info("group_placed", group=placement.group, ranks=placement.ranks, nodes=nodes)
        else:
            logger.warning("group_awaits_place", group=placement.group, ranks=placement.ranks, reason=reason)

    def _on_place_refused(self, message: PlaceRefused, now: float) -> None:
        for placement in self._groups:
            if placement.refused(message, now):
                self._say(placement)
        if message.is_final and not self._groups.was_any_placed:
            reason = f"Ray does not take what {label('ray_resources')} says: {message.reason}"
            self._on_failure("placement", FatalError(reason, 2))

    def _on_agent_ended(self, message: AgentEnded, now: float) -> None:
        found = self._groups.with_agent(message.ticket)
        if found is None:
            return
        placement, rank = found
        agent = placement.agent_of(rank)
        placement.ended(message, now)
        host = self._host_of(rank)
        self._expel(host, f"node {host.number} ({host.name}) has ended: {message.reason}")
        if agent is not None and not agent.has_joined:
            logger.warning("agent_start_failed", rank=rank, ray_node_id=agent.node_id, reason=message.reason)
            self._check_hope(message, agent.node_id)

    def _check_hope(self, message: AgentEnded, node_id: str) -> None:
        """A service that never served anything ends where somebody has to mend something."""
        if self._groups.was_any_placed:
            return
        where = self._seen.by_id.get(node_id) if self._seen else None
        reason = what_is_to_be_mended(message, f"{where.name} ({where.address})" if where else node_id)
        if reason is not None:
            self._on_failure("agent", FatalError(reason, 2))

    def _check_deadline(self, now: float) -> None:
        """Somebody is waiting for the service to come up."""
        limit_s = self._settings.node_timeout_s
        if now - self._began <= limit_s or self._groups.was_any_placed:
            return
        reason = self.waits_for()
        self._on_failure(
            "placement",
            FatalError(f"Ray has placed no rank within {limit_s:g} s ({label('node_timeout_s')}): {reason}", 1),
        )
        self._began = now

    # -- as the membership's organizer

    def objection(self, join: Join) -> str | None:
        """Whether it is the agent that was started last for its rank, and Ray has put it where it said."""
        if join.protocol != NODE_PROTOCOL_VERSION or join.version != self._version:
            return (
                f"it is Phalanx {join.version} (protocol {join.protocol}), and the gateway is {self._version} "
                f"({NODE_PROTOCOL_VERSION}): install the same on all nodes of the Ray cluster"
            )
        found = self._groups.with_agent(join.facts.ticket)
        if found is None or self._host_of(found[1]).number != join.node:
            return "another agent has been started in its place"
        placement, rank = found
        reason = misplacement(self._groups, placement, rank, join.facts)
        if reason is not None:
            logger.error("placement_wrong", group=placement.group, rank=rank, reason=reason)
            for order in placement.misplaced(rank, reason, time.monotonic()):
                if self._driver is not None:
                    self._driver.send(order)
            return reason
        reason = disagreement(placement, rank, join.agreed)
        if reason is None:
            placement.joined(rank, join.facts.gpus, join.agreed)
        return reason

    def look(self, hosts: Sequence[NodeHost]) -> None:
        """The driver tells when to look."""

    def lost(self, host: NodeHost, reason: str) -> None:
        """Another agent takes its place, there or elsewhere."""
        for placement in self._groups:
            for rank in placement.ranks:
                if self._host_of(rank) is host:
                    placement.lost(rank, time.monotonic())
