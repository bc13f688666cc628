"""What a group's place in a Ray cluster needs next, by what is seen of it."""

import itertools
from collections.abc import Sequence

import pytest

from app.ranks.hosts.ray.faults import disagreement, misplacement
from app.ranks.hosts.ray.messages import (
    AgentEnded,
    EndAgent,
    Place,
    PlacementSeen,
    PlaceRefused,
    RayNode,
    Seen,
    StartAgent,
    ToDriver,
    Unplace,
)
from app.ranks.hosts.ray.placement import ENDING_S, FAILURES_ON_A_NODE, JOIN_TIMEOUT_S, MOVING_S, Placement, Wanted
from app.ranks.hosts.ray.shortage import shortage
from engines.contract.node_protocol import NodeFacts


def node(number: int, *, free: float = 4, alive: bool = True, draining: bool = False, cpus: float = 4) -> RayNode:
    return RayNode(
        id=f"n{number}",
        name="host",
        address=f"10.0.0.{number}",
        is_alive=alive,
        is_draining=draining,
        total={"CPU": cpus},
        available={"CPU": free},
    )


class Bench:
    """A placement of so many ranks, and what Ray has of it."""

    def __init__(self, ranks: int = 1, strategy: str = "PACK", nodes: Sequence[RayNode] = (node(1), node(2))) -> None:
        wanted = Wanted(bundle={"CPU": 2.0}, strategy=strategy, gpus=0)
        self.placement = Placement(0, list(range(ranks)), wanted, lambda rank, ticket: f"{rank}")
        self.nodes = list(nodes)
        self.name = ""
        self.seen: PlacementSeen | None = None
        self.now = 1000.0
        self.sent: list[ToDriver] = []

    def look(self, later_s: float = 1.0) -> list[ToDriver]:
        self.now += later_s
        placements = {self.name: self.seen} if self.seen else {}
        orders = list(self.placement.look(Seen(nodes=self.nodes, placements=placements), self.now))
        for order in orders:
            if isinstance(order, Place):
                self.name, self.seen = order.placement, None
        self.sent += orders
        return orders

    def put(self, *nodes: str, state: str = "CREATED", scheduling: str = "FINISHED") -> None:
        """Ray has placed the bundles there."""
        self.seen = PlacementSeen(state=state, scheduling=scheduling, nodes=list(nodes))

    def start(self, *nodes: str) -> list[str]:
        """Placed there, and all agents have joined; their tickets."""
        self.look()
        self.put(*nodes)
        tickets = [order.ticket for order in self.look() if isinstance(order, StartAgent)]
        for rank in self.placement.ranks:
            self.placement.joined(rank, [], {})
        assert self.look() == [] and self.placement.waits_for is None
        return tickets


def test_it_is_placed_once_and_an_agent_started_in_each_bundle() -> None:
    bench = Bench(ranks=2)
    (place,) = bench.look()
    assert isinstance(place, Place) and place.bundles == [{"CPU": 2.0}] * 2 and place.strategy == "PACK"
    assert bench.look() == []
    bench.put("n1", "n2")
    started = bench.look()
    assert [(order.bundle, order.told) for order in started if isinstance(order, StartAgent)] == [(0, "0"), (1, "1")]
    assert bench.look() == []


def test_an_agent_that_has_ended_is_started_again_where_it_was() -> None:
    bench = Bench()
    (ticket,) = bench.start("n1")
    bench.placement.ended(AgentEnded(ticket=ticket, reason="killed"), bench.now)
    (again,) = bench.look()
    assert isinstance(again, StartAgent) and again.ticket != ticket


def test_a_bundle_that_ray_has_moved_gets_an_agent_there() -> None:
    bench = Bench()
    (ticket,) = bench.start("n1")
    bench.put("", state="RESCHEDULING", scheduling="NO_RESOURCES")
    assert bench.look() == [EndAgent(ticket=ticket)]
    bench.put("n2")
    (started,) = bench.look()
    assert isinstance(started, StartAgent)


def test_an_agent_that_fell_silent_without_ray_knowing_is_replaced_on_another_node() -> None:
    bench = Bench()
    bench.start("n1")
    name = bench.name
    bench.placement.lost(0, bench.now)
    assert bench.look() == []
    assert bench.look(ENDING_S) == [Unplace(placement=name)]
    (place,) = bench.look()
    assert isinstance(place, Place) and place.avoid == ["n1"]


def test_a_node_is_not_avoided_where_it_is_the_only_one() -> None:
    bench = Bench(nodes=[node(1)])
    bench.start("n1")
    bench.placement.lost(0, bench.now)
    bench.look(ENDING_S + 1)
    (place,) = bench.look()
    assert isinstance(place, Place) and place.avoid == []


def test_bundles_that_ray_leaves_on_a_dead_node_are_placed_anew() -> None:
    bench = Bench()
    bench.start("n1")
    bench.nodes[0] = node(1, alive=False)
    assert bench.look() == []
    assert isinstance(bench.look(MOVING_S + 1)[0], Unplace)


def test_starts_that_fail_have_pauses_that_grow_and_then_another_node() -> None:
    bench = Bench()
    bench.look()
    bench.put("n1")
    pauses = []
    for _ in range(FAILURES_ON_A_NODE):
        failed_at = bench.now
        while not (orders := bench.look(0.5)):
            pass
        pauses.append(bench.now - failed_at)
        assert isinstance(orders[0], StartAgent)
        bench.placement.ended(AgentEnded(ticket=orders[0].ticket, reason="no way", exit_code=1), bench.now)
    assert pauses == [0.5, 1.0, 2.0]
    assert isinstance(bench.look(0.1)[0], Unplace)
    (place,) = [order for order in bench.look(30) if isinstance(order, Place)]
    assert place.avoid == ["n1"]


def test_an_agent_that_does_not_join_in_time_is_given_up() -> None:
    bench = Bench()
    bench.look()
    bench.put("n1")
    bench.look()
    assert bench.look(JOIN_TIMEOUT_S - 1) == []
    assert isinstance(bench.look(2)[0], Unplace)


def test_a_drained_node_is_left_once_nothing_runs_there() -> None:
    bench = Bench()
    bench.start("n1")
    bench.nodes[0] = node(1, draining=True)
    assert bench.look() == []
    bench.placement.lost(0, bench.now)  # it has finished, and left
    assert isinstance(bench.look()[0], Unplace)


def test_bundles_that_lie_together_are_spread_anew_once_when_there_is_room() -> None:
    bench = Bench(ranks=2, strategy="SPREAD", nodes=[node(1), node(2, free=0)])
    bench.start("n1", "n1")
    bench.nodes[1] = node(2)
    assert isinstance(bench.look()[0], Unplace)
    bench.start("n1", "n1")
    assert list(itertools.chain.from_iterable(bench.look() for _ in range(5))) == []


def test_what_is_missing_is_said() -> None:
    bench = Bench(ranks=2, nodes=[node(1, free=1)])
    bench.look()
    bench.put("", "", state="PENDING", scheduling="NO_RESOURCES")
    bench.look()
    assert bench.placement.waits_for == (
        "the Ray cluster has no room for 2 bundles of 2 CPU; 1 CPU free on all of its nodes (1) together"
    )
    words = shortage({"GPU": 2.0, "CPU": 1.0}, 1, [node(1)])
    assert words.startswith("no node of the Ray cluster has 2 GPU and 1 CPU, which each rank needs; the most that one")


@pytest.mark.parametrize(
    ("strategy", "ranks", "nodes", "words"),
    [
        (
            "STRICT_PACK",
            3,
            [node(1), node(2)],
            "no node of the Ray cluster has 6 CPU, which the 3 ranks need together on one (strict_pack); the most that "
            "one of its nodes (2) has is 4 CPU: add such a node, or choose another --ray-strategy",
        ),
        (
            "STRICT_SPREAD",
            3,
            [node(1), node(2), node(3, cpus=1)],
            "the 3 ranks need a node each (strict_spread) with 2 CPU, and the Ray cluster has 2 such nodes: add nodes, "
            "or choose another --ray-strategy",
        ),
        (
            "STRICT_SPREAD",
            2,
            [node(1), node(2, free=0)],
            "the Ray cluster has no room for 2 bundles of 2 CPU; 4 CPU free on all of its nodes (2) together, and "
            "4 CPU at most on one of them; --ray-strategy is strict_spread",
        ),
        (
            "PACK",
            1,
            [node(1, free=1), node(2, free=1)],
            "the Ray cluster has no room for a bundle of 2 CPU; 2 CPU free on all of its nodes (2) together, and "
            "1 CPU at most on one of them",
        ),
    ],
)
def test_what_is_missing_is_said_of_how_the_ranks_are_to_lie(
    strategy: str, ranks: int, nodes: list[RayNode], words: str
) -> None:
    bench = Bench(ranks=ranks, strategy=strategy, nodes=nodes)
    bench.look()
    bench.put(*[""] * ranks, state="PENDING", scheduling="NO_RESOURCES")
    bench.look()
    assert bench.placement.waits_for == words


def test_a_ticket_of_an_agent_that_was_replaced_is_nobodys() -> None:
    bench = Bench()
    (ticket,) = bench.start("n1")
    bench.placement.ended(AgentEnded(ticket=ticket, reason="killed"), bench.now)
    assert bench.placement.rank_of(ticket) is None
    bench.look()
    agent = bench.placement.agent_of(0)
    assert agent is not None and bench.placement.rank_of(agent.ticket) == 0


def facts(node_id: str, *gpus: str) -> NodeFacts:
    return NodeFacts(name="host", pid=1, device="cuda", cores=1, gpus=list(gpus), shares=[], ray_node_id=node_id)


def on_gpus(group: int) -> tuple[Placement, str]:
    """A placement of two ranks with a GPU each, whose agents are being started on one node."""
    ranks = [2 * group, 2 * group + 1]
    placement = Placement(group, ranks, Wanted(bundle={"GPU": 1.0}, strategy="PACK", gpus=1), lambda rank, _: f"{rank}")
    seen = Seen(nodes=[node(1)], placements={})
    (place,) = placement.look(seen, 1.0)
    assert isinstance(place, Place)
    there = PlacementSeen(state="CREATED", scheduling="FINISHED", nodes=["n1", "n1"])
    list(placement.look(Seen(nodes=[node(1)], placements={place.placement: there}), 2.0))
    return placement, place.placement


def test_what_ray_has_dealt_is_checked() -> None:
    one, two = on_gpus(0)[0], on_gpus(1)[0]
    assert misplacement([one, two], one, 0, facts("n1", "0")) is None
    one.joined(0, ["0"], {})
    elsewhere = misplacement([one, two], one, 1, facts("n2", "1"))
    assert elsewhere == "rank 1 is on Ray node n2, and its bundle on another"
    none = misplacement([one, two], one, 1, facts("n1"))
    assert none == "rank 1 has been given these GPUs: none; it needs 1"
    shared = misplacement([one, two], two, 2, facts("n1", "0"))
    assert shared == "ranks 0 and 2 have both been given GPU 0"
    assert misplacement([one, two], two, 2, facts("n1", "1")) is None


def test_the_agents_of_a_group_have_the_same_engine() -> None:
    placement, _ = on_gpus(0)
    placement.joined(0, ["0"], {"the version of vllm": '"0.32.0"'})
    assert disagreement(placement, 1, {"the version of vllm": '"0.32.0"'}) is None
    other = disagreement(placement, 1, {"the version of vllm": '"0.31.0"'})
    assert other is not None and other.startswith('the version of vllm is "0.31.0" where rank 1 is, and "0.32.0" where')


def test_what_ray_does_not_take_is_said_and_asked_again_later() -> None:
    bench = Bench()
    bench.look()
    refused = PlaceRefused(placement=bench.name, reason="no such thing", is_final=True)
    assert bench.placement.refused(refused, bench.now)
    assert bench.placement.waits_for == "Ray does not take what it needs: no such thing"
    assert bench.look(0.5) == []
    (again,) = bench.look(1.0)
    assert isinstance(again, Place) and again.placement != refused.placement
    assert not bench.placement.refused(refused, bench.now)  # it is about the former one
