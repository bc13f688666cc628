"""One group's place in a Ray cluster: what has to be done next, decided from what is there. No I/O.

It looks at the whole every time instead of following events: a placement group that is there has an agent in each
bundle, on the bundle's node; whatever differs is put right. Ray moves bundles by itself when a node dies.
"""

import secrets
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from app.ranks.hosts.ray.messages import (
    AgentEnded,
    EndAgent,
    Place,
    PlacementSeen,
    PlaceRefused,
    Seen,
    StartAgent,
    ToDriver,
    Unplace,
)
from app.ranks.hosts.ray.shortage import could_ever_fit, fits, shortage

CREATED = "CREATED"
JOIN_TIMEOUT_S = 120.0  # for an agent to have started and joined: a node may have to unpack an environment first
ENDING_S = 5.0  # for Ray to say that an agent has ended which we have lost
MOVING_S = 10.0  # for Ray to move bundles off a node that is dead
AVOIDED_S = 300.0  # how long a node is, on which an agent was lost without Ray knowing why
NOT_YET = "Ray has not placed it yet"
STARTING = "its agent is being started"
MOST_PAUSE_S = 30.0  # between two starts in a row that failed
FAILURES_ON_A_NODE = 3  # before another one is asked for
SPREADING = ("SPREAD", "STRICT_SPREAD")


@dataclass(frozen=True)
class Wanted:
    """What each rank of a group needs, and how they are to lie."""

    bundle: Mapping[str, float]
    strategy: str
    gpus: int  # of each rank; 0 on CPUs
    runtime_env: Mapping[str, object] = field(default_factory=dict)


@dataclass
class BundleAgent:
    """The agent in one bundle."""

    ticket: str
    node_id: str
    started_at: float
    has_joined: bool = False
    gpus: tuple[str, ...] = ()
    engines: Mapping[str, str] = field(default_factory=dict)  # what is installed there, with versions
    lost_at: float | None = None  # when we stopped to hear it; it may not have ended

    @property
    def is_heard(self) -> bool:
        """Whether it belongs to its gateway."""
        return self.has_joined and self.lost_at is None


class Placement:
    """The place of one group. `told` makes what the agent of one of its ranks is told."""

    def __init__(self, group: int, ranks: Sequence[int], wanted: Wanted, told: Callable[[int, str], str]) -> None:
        self.group = group
        self.ranks = ranks
        self.waits_for: str | None = None  # while it has no place, why not
        self.last_failure: AgentEnded | None = None  # of an agent that never joined
        self.was_ever_placed = False
        self._wanted = wanted
        self._told = told
        self._name: str | None = None  # of the placement group; None: there is none
        self._lives = 0
        self._asked_at = 0.0
        self._agents: list[BundleAgent | None] = [None] * len(ranks)
        self._avoided: dict[str, float] = {}  # ids of nodes, until when
        self._failures = 0  # of starts, in a row
        self._not_before = 0.0
        self._astray_since: float | None = None  # with a bundle on a dead node
        self._was_spread_anew = False

    # -- what others ask and tell

    def agent_of(self, rank: int) -> BundleAgent | None:
        """The one that is there, or on its way."""
        return self._agents[self.ranks.index(rank)] if rank in self.ranks else None

    @property
    def gpus(self) -> int:
        """Of each rank."""
        return self._wanted.gpus

    def rank_of(self, ticket: str) -> int | None:
        """Whose agent it is; None for one that has been replaced."""
        return next((rank for rank, agent in zip(self.ranks, self._agents, strict=True) if _is(agent, ticket)), None)

    def joined(self, rank: int, gpus: Sequence[str], engines: Mapping[str, str]) -> None:
        """Its agent is there."""
        agent = self.agent_of(rank)
        if agent is not None:
            agent.has_joined, agent.gpus, agent.engines = True, tuple(gpus), engines
            self._failures = 0
            self.last_failure = None
            self.was_ever_placed = True

    def lost(self, rank: int, now: float) -> None:
        """Its agent is not heard any more."""
        agent = self.agent_of(rank)
        if agent is not None and agent.lost_at is None:
            agent.lost_at = now

    def ended(self, message: AgentEnded, now: float) -> None:
        """Ray says so. One that never joined is started again after a pause that grows."""
        rank = self.rank_of(message.ticket)
        agent = None if rank is None else self.agent_of(rank)
        if rank is None or agent is None:
            return
        self._agents[self.ranks.index(rank)] = None
        if not agent.has_joined:
            self.last_failure = message
            self._failed(agent.node_id, now)

    def refused(self, message: PlaceRefused, now: float) -> bool:
        """Ray does not take what it needs; asked again after a pause that grows. False for a former placement group."""
        if message.placement != self._name:
            return False
        self.forget()
        self._pause(now)
        self.waits_for = f"Ray does not take what it needs: {message.reason}"
        return True

    def forget(self) -> None:
        """The cluster is gone, and all that was there."""
        self._name = None
        self._agents = [None] * len(self.ranks)
        self._astray_since = None

    def release(self) -> Iterator[ToDriver]:
        """It is not needed any more."""
        if self._name is not None:
            yield Unplace(placement=self._name)
        self.forget()

    # -- what is to be done

    def look(self, seen: Seen, now: float) -> Iterator[ToDriver]:
        """What has to be done next, from what is there."""
        self._avoided = {node: until for node, until in self._avoided.items() if until > now}
        if self._name is None:
            if now >= self._not_before:
                yield self._place(seen, now)
            return
        found = seen.placements.get(self._name)
        if found is None and now - self._asked_at > MOVING_S:
            yield from self._anew("Ray does not know its placement group any more")
        elif found is not None and found.state == CREATED:
            yield from self._look_at_bundles(found, seen, now)
        elif found is not None:
            self._astray_since = None
            yield from self._leave_dead_nodes(found)
            self.waits_for = self._shortage(found, seen)

    def _place(self, seen: Seen, now: float) -> Place:
        self._lives += 1
        self._name = f"phalanx-group-{self.group}-{self._lives}-{secrets.token_hex(3)}"
        self._asked_at = now
        self.waits_for = self.waits_for or NOT_YET
        bundles = [dict(self._wanted.bundle)] * len(self.ranks)
        others = [node for node in seen.nodes if node.id not in self._avoided]
        if not could_ever_fit(self._wanted.bundle, others):
            self._avoided.clear()
        return Place(placement=self._name, bundles=bundles, strategy=self._wanted.strategy, avoid=sorted(self._avoided))

    def _look_at_bundles(self, found: PlacementSeen, seen: Seen, now: float) -> Iterator[ToDriver]:
        nodes = seen.by_id
        if reason := self._wrong(found, seen):
            yield from self._anew(reason)
            return
        if any(node not in nodes or not nodes[node].is_alive for node in found.nodes):
            self._astray_since = self._astray_since or now
            if now - self._astray_since > MOVING_S:
                yield from self._anew("Ray has left it on a node that is dead")
            return
        self._astray_since = None
        for number, node_id in enumerate(found.nodes):
            agent = self._agents[number]
            if agent is None:
                if now >= self._not_before:
                    yield self._start(number, node_id, now)
            elif agent.node_id != node_id:
                self._agents[number] = None
                yield EndAgent(ticket=agent.ticket)
            elif reason := _trouble(agent, now):
                self._avoid(node_id, now)
                yield from self._anew(reason)
                return
        if all(agent is not None and agent.is_heard for agent in self._agents):
            self.waits_for = None
        else:
            self.waits_for = self._failure_words() or STARTING

    def _wrong(self, found: PlacementSeen, seen: Seen) -> str | None:
        """How its bundles lie as they must not; None where all is well."""
        nodes = seen.by_id
        draining = {node for node in found.nodes if node in nodes and nodes[node].is_draining}
        if draining and not self._is_in_use(draining):
            return "one of its nodes is drained"
        given_up = self._avoided.keys() & set(found.nodes)
        if given_up and not self._is_in_use(given_up):
            return "its agents could not be started there"
        if self._wanted.strategy not in SPREADING or len(set(found.nodes)) == len(found.nodes):
            self._was_spread_anew = False
            return None
        room = [node for node in seen.nodes if node.is_alive and not node.is_draining and node.id not in found.nodes]
        has_room = any(fits(self._wanted.bundle, node.available) for node in room)
        if has_room and not self._was_spread_anew:  # once: what Ray then does again is what it can do
            self._was_spread_anew = True
            return "its bundles lie on fewer nodes than they could"
        return None

    def _is_in_use(self, nodes: Container[str]) -> bool:
        """Whether an agent on these nodes is heard: its ranks finish what they hold."""
        return any(agent is not None and agent.is_heard and agent.node_id in nodes for agent in self._agents)

    def _leave_dead_nodes(self, found: PlacementSeen) -> Iterator[ToDriver]:
        """Ray looks for another place for bundles that have none."""
        for number, node_id in enumerate(found.nodes):
            agent = self._agents[number]
            if agent is not None and agent.node_id != node_id:
                self._agents[number] = None
                yield EndAgent(ticket=agent.ticket)

    def _start(self, number: int, node_id: str, now: float) -> StartAgent:
        rank, ticket = self.ranks[number], secrets.token_hex(8)
        self._agents[number] = BundleAgent(ticket, node_id, now)
        return StartAgent(
            ticket=ticket,
            placement=str(self._name),
            bundle=number,
            told=self._told(rank, ticket),
            runtime_env=dict(self._wanted.runtime_env),
        )

    def _anew(self, reason: str) -> Iterator[ToDriver]:
        self.waits_for = f"it is placed anew: {reason}"
        yield from self.release()

    def misplaced(self, rank: int, reason: str, now: float) -> Iterator[ToDriver]:
        """What an agent has found where it is, is not what Ray was asked for."""
        agent = self.agent_of(rank)
        if agent is not None:
            self._failed(agent.node_id, now)
        yield from self._anew(reason)

    def _failed(self, node_id: str, now: float) -> None:
        self._pause(now)
        if self._failures % FAILURES_ON_A_NODE == 0:
            self._avoid(node_id, now)

    def _pause(self, now: float) -> None:
        self._failures += 1
        self._not_before = now + min(MOST_PAUSE_S, 2.0 ** (self._failures - 1))

    def _avoid(self, node_id: str, now: float) -> None:
        self._avoided[node_id] = now + AVOIDED_S

    def _failure_words(self) -> str | None:
        return None if self.last_failure is None else f"its agent could not be started: {self.last_failure.reason}"

    def _shortage(self, found: PlacementSeen, seen: Seen) -> str:
        missing = found.nodes.count("") or len(found.nodes)
        nodes = [node for node in seen.nodes if node.id not in self._avoided]
        return shortage(self._wanted.bundle, missing, nodes, self._wanted.strategy, len(self.ranks))


def _is(agent: BundleAgent | None, ticket: str) -> bool:
    return agent is not None and agent.ticket == ticket


def _trouble(agent: BundleAgent, now: float) -> str | None:
    """Why a place is given up where an agent is believed to be; None while there is hope."""
    if agent.lost_at is not None and now - agent.lost_at > ENDING_S:
        return "an agent fell silent, and Ray does not know why"
    if not agent.has_joined and now - agent.started_at > JOIN_TIMEOUT_S:
        return (
            f"an agent has not joined within {JOIN_TIMEOUT_S:g} s: its node may not reach --master-addr, or Ray cannot "
            "start its process there (Ray's logs on that node say why)"
        )
    return None
