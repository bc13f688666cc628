"""Replicas that Ray places on three nodes: what becomes of items and processes when something is killed."""

import os
import signal
from collections import Counter
from collections.abc import Iterator

import psutil
import pytest

from tests.ray_cluster import RayCluster, nodes_of, placed_on
from tests.service import Json, Service, until

ITEMS = 2000
SHORT = {"max_tokens": 16, "ignore_eos": True}
LONG = {"max_tokens": 64, "ignore_eos": True}  # while ranks come up, on a busy machine, too
PACE = {"step_ms": 20, "max_num_seqs": 32}  # a batch takes some seconds
Pair = tuple[RayCluster, Service]


@pytest.fixture(scope="module")
def served() -> Iterator[Pair]:
    with RayCluster(nodes=3) as cluster:
        service = cluster.serve(dp_size=4, **PACE).wait_ready()
        yield cluster, service
        service.stop()
        cluster.check_nothing_left()


def ended_once(answer: Json) -> bool:
    return [r["index"] for r in answer["results"]] == list(range(ITEMS)) and answer["request_counts"]["ok"] == ITEMS


def run_with(service: Service, act: "object") -> Json:
    with service.begin(["a prompt"] * ITEMS, sampling_params=SHORT) as pending:
        until(lambda: all(service.held), "not all ranks work")
        act()  # type: ignore[operator]
        return pending.answer()


def check_placement(cluster: RayCluster, service: Service) -> None:
    """Each rank's process is on the node that Ray's id names."""
    by_id = {node["ray_node_id"]: node for node in nodes_of(service)}
    for rank, node_id in placed_on(service).items():
        node = cluster.with_rank(rank)
        agent = by_id[node_id]["pid"]
        assert any(process.pid == agent for process in node.processes())


def test_items_are_spread_over_the_ranks_wherever_ray_has_put_them(served: Pair) -> None:
    cluster, service = served
    answer = service.batch(["a prompt"] * ITEMS, sampling_params=SHORT)
    assert ended_once(answer)
    assert Counter(r["rank"] for r in answer["results"]).keys() == {0, 1, 2, 3}
    assert [node["ranks"] for node in nodes_of(service)] == [[0], [1], [2], [3]]
    assert all(node["ray_node_id"] for node in nodes_of(service))
    check_placement(cluster, service)


def test_a_killed_node_loses_no_item_and_its_ranks_have_places_elsewhere(served: Pair) -> None:
    cluster, service = served
    lost = cluster.with_rank(1)
    before = placed_on(service)
    gone = before[1]
    answer = run_with(service, lost.kill)
    assert ended_once(answer)
    service.wait_ready()
    after = placed_on(service)
    assert gone not in after.values()
    assert {rank: node for rank, node in before.items() if node != gone}.items() <= after.items()
    cluster.nodes.remove(lost)
    lost.discard()
    check_placement(cluster, service)
    cluster.add_node()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "ended"])
def test_a_raylet_that_ends_takes_its_ranks_along_and_no_item(served: Pair, number: signal.Signals) -> None:
    cluster, service = served
    node = cluster.with_rank(0)
    gone = placed_on(service)[0]
    answer = run_with(service, lambda: node.kill_raylet(number))
    assert ended_once(answer)
    service.wait_ready()
    assert gone not in placed_on(service).values()
    until(lambda: not node.ours(), f"it has left {node.ours()}", 30)
    cluster.nodes.remove(node)
    node.discard()
    cluster.add_node()


@pytest.mark.parametrize("title", ["phalanx-agent 3", "ray::AgentHolder", "phalanx-guardian 2", "phalanx-rank 2"])
def test_whatever_process_of_a_rank_is_killed_no_item_is_lost_and_the_rank_comes_back(served: Pair, title: str) -> None:
    cluster, service = served
    node = cluster.with_rank(2)
    answer = run_with(service, lambda: os.kill(node.titled(title)[0], signal.SIGKILL))
    assert ended_once(answer)
    service.wait_ready()
    check_placement(cluster, service)
    assert len([n for n in cluster.nodes if n.titled("phalanx-rank 2")]) == 1


def test_an_agent_that_is_stopped_is_replaced_elsewhere_and_leaves_nothing(served: Pair) -> None:
    cluster, service = served
    node = cluster.with_rank(3)
    (agent,) = node.titled("phalanx-agent 4")
    (rank,) = node.titled("phalanx-rank 3")
    gone = placed_on(service)[3]
    answer = run_with(service, lambda: os.kill(agent, signal.SIGSTOP))
    assert ended_once(answer)
    until(lambda: placed_on(service)[3] != gone, "it has no other place")
    service.wait_ready()
    until(lambda: not psutil.pid_exists(agent) and not psutil.pid_exists(rank), "it is left")
    check_placement(cluster, service)


def test_a_killed_driver_is_followed_by_another_one_that_places_everything_anew(served: Pair) -> None:
    _, service = served
    (driver,) = service.titled("hosts.ray.driver")
    answer = run_with(service, lambda: os.kill(driver, signal.SIGKILL))
    assert ended_once(answer)
    service.wait_ready()
    assert service.titled("hosts.ray.driver") != [driver]
    assert service.facts("ray_lost")


def test_a_killed_gateway_leaves_nothing_on_any_node() -> None:
    with RayCluster(nodes=2) as cluster:
        service = cluster.serve(dp_size=2).wait_ready()
        service.process.kill()
        service.process.wait()
        cluster.check_nothing_left()
        until(lambda: not service.processes(), "its driver is left", 30)
        assert not list(cluster.nodes[0].folder.glob("phalanx*"))


def test_a_gateway_that_is_stopped_as_rays_jobs_are_finishes_what_runs() -> None:
    with RayCluster(nodes=2) as cluster:
        service = cluster.serve(dp_size=2, **PACE).wait_ready()
        with service.begin(["a prompt"] * ITEMS, sampling_params=SHORT) as pending:
            until(lambda: all(service.held), "not all ranks work")
            gateway = psutil.Process(service.process.pid)
            for process in (gateway, *gateway.children(recursive=True)):
                process.terminate()
            assert ended_once(pending.answer())
        assert service.wait() == 0
        assert not service.facts("ray_lost")
        service.check_nothing_left()
        cluster.check_nothing_left()


def test_ranks_are_added_and_removed_in_a_cluster_under_load() -> None:
    with RayCluster(nodes=2, cpus=2) as cluster:
        service = cluster.serve(dp_size=2, **PACE).wait_ready()
        with service.begin(["a prompt"] * ITEMS, sampling_params=LONG) as pending:
            until(lambda: all(service.held), "not all ranks work")
            assert service.client.post("/v1/ranks/scale", json={"dp_size": 4}).status_code == 202
            until(lambda: len(service.held) == 4 and all(service.held), "the new ranks have no work")
            assert service.client.post("/v1/ranks/scale", json={"dp_size": 1}).status_code == 202
            answer = pending.answer()
        assert ended_once(answer)
        assert {r["rank"] for r in answer["results"]} == {0, 1, 2, 3}
        assert max(r["attempts"] for r in answer["results"]) == 1
        until(lambda: len(service.ranks()) == 1, "they are not removed")
        assert [node["ranks"] for node in nodes_of(service)] == [[0]]
        until(lambda: len([line for line in cluster.ours() if "phalanx-agent" in line]) == 1, "agents are left", 30)
        assert service.client.post("/v1/ranks/scale", json={"dp_size": 3}).status_code == 202
        until(lambda: len(service.ranks()) == 3 and service.health()["status"] == "ok", "they do not come back")
        service.stop()
        cluster.check_nothing_left()
