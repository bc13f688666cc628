"""Clusters that have no room, go away, are drained, or are of no use: what is said, and what follows."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.ray_cluster import RayCluster, placed_on, wait_serving
from tests.service import Service, until

ITEMS = 2000
SHORT = {"max_tokens": 16, "ignore_eos": True}
PACE = {"step_ms": 20, "max_num_seqs": 32}


def last_words(service: Service, code: int) -> str:
    assert service.wait() == code
    return service.log.splitlines()[-1]


def test_a_full_cluster_is_said_and_waited_for_while_the_first_rank_serves() -> None:
    with RayCluster(nodes=1, cpus=1) as cluster:
        service = cluster.serve(dp_size=2)
        wait_serving(service)
        words = "the Ray cluster has no room for a bundle of 1 CPU; 0 CPU free on all of its nodes (2) together"
        until(lambda: words in service.health()["reason"], "it is not said")
        assert service.health()["status"] == "degraded"
        assert service.batch(["a prompt"] * 10)["request_counts"]["ok"] == 10
        cluster.add_node()
        service.wait_ready()
        service.stop()
        cluster.check_nothing_left()


def test_what_no_node_could_hold_ends_the_start_when_its_time_is_up() -> None:
    with RayCluster(nodes=1, cpus=2) as cluster:
        service = cluster.serve("--ray-resources", '{"CPU": 64}', "--node-timeout-s", "5")
        words = (
            "no node of the Ray cluster has 64 CPU, which each rank needs; the most that one of its nodes (2) has is 2"
        )
        until(
            lambda: [f for f in service.facts("group_awaits_place") if words in f["reason"]], "it is not said at once"
        )
        last = last_words(service, 1)
        assert last.startswith("phalanx: Ray has placed no rank within 5 s (--node-timeout-s")
        assert f"ranks 0, 1: {words} CPU: add such a node, or lower --tp-size or --ray-resources" in last
        cluster.check_nothing_left()


def test_a_head_that_is_restarted_leaves_nothing_and_the_next_cluster_is_used() -> None:
    with RayCluster(nodes=2) as cluster:
        service = cluster.serve(**PACE).wait_ready()
        with service.begin(["a prompt"] * ITEMS, sampling_params=SHORT) as pending:
            until(lambda: all(service.held), "not all ranks work")
            cluster.head.kill()
            cluster.check_nothing_left()
            until(lambda: service.facts("ray_lost"), "it is not noticed")
            assert "head of the Ray cluster" in service.health()["reason"] or "Ray" in service.health()["reason"]
            for node in cluster.nodes:
                node.discard()
            cluster.nodes.clear()
            cluster.restart_head()
            for _ in range(2):
                cluster.add_node()
            assert pending.answer()["request_counts"]["ok"] == ITEMS
        service.wait_ready()
        service.stop()
        cluster.check_nothing_left()


def test_a_node_that_is_drained_finishes_what_it_holds() -> None:
    with RayCluster(nodes=2, cpus=1) as cluster:
        service = cluster.serve(dp_size=2, **PACE).wait_ready()
        drained = placed_on(service)[1]
        lost_before = service.metric("phalanx_items_requeued_total")
        with service.begin(["a prompt"] * ITEMS, sampling_params=SHORT) as pending:
            until(lambda: all(service.held), "not all ranks work")
            cluster.drain(str(drained))
            cluster.add_node()
            assert pending.answer()["request_counts"]["ok"] == ITEMS
        until(lambda: service.facts("node_leaving"), "it is not drained")
        until(lambda: placed_on(service)[1] != drained, "it has no other place")
        service.wait_ready()
        assert service.metric("phalanx_items_requeued_total") == lost_before
        service.stop()
        cluster.check_nothing_left()


def test_gpus_are_as_ray_has_dealt_them() -> None:
    with RayCluster(1, 4, "--num-gpus", "4") as cluster:
        service = cluster.serve("--device", "cuda", "--tp-size", "2", dp_size=2).wait_ready()
        dealt = [rank["gpus"] for rank in service.ranks()]
        assert sorted(gpu for gpus in dealt for gpu in gpus) == ["0", "1", "2", "3"]
        assert [len(gpus) for gpus in dealt] == [2, 2]
        service.stop()


def test_a_port_of_another_kind_and_a_machine_outside_are_said() -> None:
    with RayCluster(nodes=0) as cluster:
        host, port = cluster.address.rsplit(":", 1)
        client_port = cluster.client_address.rpartition(":")[2]
        outside = cluster.serve(address=f"ray://{host}:{port}")
        inside = cluster.serve(address=f"{host}:{client_port}")
        words = f"no Ray cluster answers at ray://{host}:{port}, though somebody listens there: name the head's port of"
        assert words in last_words(outside, 2)
        words = f"no Ray cluster answers at {host}:{client_port}, though somebody listens there: name the head's --port"
        assert words in last_words(inside, 2)
        os.kill(cluster.head.process.pid, signal.SIGSTOP)  # it would end the rest of the head
        cluster.head.kill_raylet()  # nothing of the cluster's nodes is on this machine now
        words = f"this machine is no node of the Ray cluster at {cluster.address}: join it with `ray start --address "
        assert words in last_words(cluster.serve(), 2)


def test_what_ray_does_not_take_is_said() -> None:
    with RayCluster(nodes=1) as cluster:
        last = last_words(cluster.serve("--ray-runtime-env", '{"pip": 3}'), 2)
        assert last.startswith("phalanx: Ray does not start what --ray-runtime-env (PHALANX_RAY_RUNTIME_ENV) or ")
        assert "runtime_env['pip'] must be" in last
        cluster.check_nothing_left()


def test_a_cluster_of_another_version_is_said() -> None:
    older = "import ray; ray.__version__ = '2.59.0'; from ray.scripts.scripts import main; main()"
    with RayCluster(nodes=0, program=(sys.executable, "-c", older)) as cluster:
        last = last_words(cluster.serve(), 2)
    assert f"the cluster at {cluster.address} runs Ray 2.59.0 with Python 3." in last
    assert last.endswith("install the same for both")


def test_workers_without_the_package_are_said(tmp_path: Path) -> None:
    # As if it were not installed: an editable installation is a finder of its own.
    without = "import sys\nsys.meta_path[:] = [one for one in sys.meta_path if 'editable' not in str(one).lower()]\n"
    (tmp_path / "sitecustomize.py").write_text(without)
    with RayCluster(nodes=0) as cluster:
        cluster.add_node(PYTHONPATH=str(tmp_path))
        last = last_words(cluster.serve(), 2)
    assert "is not installed for Ray's workers on node " in last
    assert "or name an environment with --ray-runtime-env (PHALANX_RAY_RUNTIME_ENV)" in last


@pytest.mark.parametrize("mode", ["disabled", "token"])
def test_a_cluster_that_asks_for_a_token_is_said(mode: str) -> None:
    with RayCluster(nodes=0) as cluster:
        cluster.change(RAY_AUTH_MODE=mode, RAY_AUTH_TOKEN="0" * 64)
        last = last_words(cluster.serve(), 2)
    assert "asks for a token that this machine does not show: set RAY_AUTH_MODE=token" in last
