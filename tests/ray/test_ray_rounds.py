"""Random rounds: something is killed in the midst of a batch, a node, a part of one or the gateway, and nothing is lost
or left."""

import os
import random
import signal
import time

import pytest

from tests.ray_cluster import RayCluster, RayNode, placed_on
from tests.service import Json, Service, until

ITEMS = 1200
SHORT = {"max_tokens": 16, "ignore_eos": True}
PACE = {"step_ms": 20, "max_num_seqs": 32}
PARTS = ("phalanx-agent", "ray::AgentHolder", "phalanx-guardian", "phalanx-rank")
ACTS = ("node", "raylet", "raylet gently", "part", "part", "driver", "gateway", "two nodes")


class Rounds:
    """A cluster of three nodes, and one gateway after another."""

    def __init__(self, cluster: RayCluster, chance: random.Random, *, is_moe: bool) -> None:
        self._cluster = cluster
        self._chance = chance
        self._is_moe = is_moe
        self.service = self._serve()

    def _serve(self) -> Service:
        return self._cluster.serve(dp_size=3, is_moe=self._is_moe, **PACE).wait_ready()

    def play(self, act: str) -> None:
        """One round, from a service that is ready to one that is ready."""
        with self.service.begin(["a prompt"] * ITEMS, sampling_params=SHORT) as pending:
            until(lambda: any(self.service.held), "nothing runs")
            time.sleep(self._chance.random())  # at any moment
            if act == "gateway":
                self._kill_gateway()
                return
            self._kill(act)
            self._check(pending.answer())
        self.service.wait_ready()
        self._check_places()

    def _kill_gateway(self) -> None:
        self.service.process.kill()
        self.service.process.wait()
        self._cluster.check_nothing_left()
        until(lambda: not self.service.processes(), "processes are left", 30)
        self.service.discard()
        self.service = self._serve()

    def _kill(self, act: str) -> None:
        if act == "driver":
            os.kill(self.service.titled("hosts.ray.driver")[0], signal.SIGKILL)
        elif act == "part":
            running = [node for node in self._cluster.nodes if node.titled("phalanx-rank")]
            part = self._chance.choice(PARTS)
            os.kill(self._chance.choice(self._chance.choice(running).titled(part)), signal.SIGKILL)
            print(part, end=" ", flush=True)  # noqa: T201  which one it was
        else:
            for node in self._chance.sample(self._cluster.nodes, 2 if act == "two nodes" else 1):
                self._end(node, act)
                self._cluster.add_node()

    def _end(self, node: RayNode, act: str) -> None:
        if act.startswith("raylet"):
            node.kill_raylet(signal.SIGTERM if act.endswith("gently") else signal.SIGKILL)
            until(lambda: not node.ours(), f"it has left {node.ours()}", 30)
        self._cluster.nodes.remove(node)
        node.discard()

    def _check(self, answer: Json) -> None:
        assert [r["index"] for r in answer["results"]] == list(range(ITEMS))
        assert answer["request_counts"]["ok"] == ITEMS

    def _check_places(self) -> None:
        """Each rank runs once, where Ray's id says."""
        assert all(placed_on(self.service).values())
        for rank in range(3):
            running = [node for node in self._cluster.nodes for _ in node.titled(f"phalanx-rank {rank}")]
            assert len(running) == 1


@pytest.mark.timeout(0)
@pytest.mark.parametrize("is_moe", [False, True], ids=["replicas", "lockstep"])
def test_whatever_is_killed_nothing_is_lost_and_nothing_is_left(
    rounds: int, chance: random.Random, *, is_moe: bool
) -> None:
    with RayCluster(nodes=3, cpus=2) as cluster:
        played = Rounds(cluster, chance, is_moe=is_moe)
        for number in range(rounds // 2):
            act = chance.choice(ACTS)
            began = time.monotonic()
            played.play(act)
            print(f"round {number}: {act}, {time.monotonic() - began:.0f} s", flush=True)  # noqa: T201  it takes long
        played.service.stop()
        cluster.check_nothing_left()
