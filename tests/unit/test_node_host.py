"""What the gateway believes of a node by what it hears from there."""

import asyncio
import time
from types import SimpleNamespace

import pytest
from rank_specs import rank_spec
from test_fleet import Bench, play

from app.ranks.hosts.host import HostLost
from app.ranks.hosts.node import DOUBT_S, NodeHost
from engines.contract.node_protocol import BEAT_S, SILENCE_S, NodeFacts
from engines.contract.spec import RankVariables, Share

FACTS = NodeFacts(name="there", pid=1, device="cpu", cores=1, gpus=[], shares=[Share()])


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def joined(*, is_connected: bool = True) -> NodeHost:
    port = SimpleNamespace(send=lambda *_: is_connected, endpoint="tcp://10.0.0.1:1")
    host = NodeHost(1, [1], port, epoch=1)
    host.join(b"agent", "1", FACTS)
    return host


def test_a_node_that_is_heard_every_second_is_not_to_blame_for_what_its_ranks_suffer(clock: Clock) -> None:
    host = joined()
    for _ in range(20):
        clock.now += BEAT_S
        assert not host.may_be_lost()
        host.heard()


def test_a_silent_node_may_be_to_blame_and_for_a_while_after_it_is_heard_again(clock: Clock) -> None:
    host = joined()
    clock.now += DOUBT_S + 0.1
    assert host.may_be_lost() and not host.is_heard
    host.heard()
    assert host.may_be_lost() and host.is_heard
    for _ in range(int(SILENCE_S) + 1):
        clock.now += 1
        host.heard()
    assert not host.may_be_lost()


def test_a_node_that_is_not_connected_any_more_may_be_to_blame_before_anybody_has_noticed() -> None:
    assert joined(is_connected=False).may_be_lost()


def test_no_rank_is_awaited_from_a_node_that_was_lost_before_it_was_told() -> None:
    """While its group got ready for the start, say."""
    host = joined()
    host.lose("node 1 (there) broke off its connection")

    async def start() -> None:
        async with asyncio.timeout(10):
            await host.start(rank_spec(rank=1), RankVariables({}))

    with pytest.raises(HostLost, match="node 1 is lost"):
        asyncio.run(start())


def test_a_rank_that_ends_with_the_connection_of_its_node_makes_no_suspects(monkeypatch: pytest.MonkeyPatch) -> None:
    def scenario(bench: Bench) -> None:
        bench.ready(0, 1)
        monkeypatch.setattr(bench.fleet.host_of(1), "may_be_lost", lambda: True)
        bench.lose(0)  # which works in lock-step with the one that was cut off
        assert bench.heard[-1] == ("node_lost", 0)

    play(scenario, is_moe=True)
