"""A gateway that is no part of the cluster, and reaches it by Ray Client."""

import os
import signal

from tests.ray.test_ray_replicas import ITEMS, PACE, ended_once, run_with
from tests.ray_cluster import RayCluster, nodes_of, placed_on
from tests.service import until


def test_ranks_are_placed_lost_and_placed_again_by_ray_client() -> None:
    with RayCluster(nodes=3) as cluster:
        service = cluster.serve(dp_size=3, address=cluster.client_address, **PACE).wait_ready()
        assert all(node["ray_node_id"] for node in nodes_of(service))
        before = placed_on(service)
        lost = cluster.with_rank(0)
        assert ended_once(run_with(service, lost.kill))
        service.wait_ready()
        assert None not in placed_on(service).values() and placed_on(service)[0] != before[0]
        os.kill(service.facts("ray_connected")[-1]["driver"], signal.SIGKILL)
        until(lambda: service.facts("ray_lost"), "it is not noticed")
        service.wait_ready()
        assert service.batch(["a prompt"] * ITEMS, sampling_params={"max_tokens": 1})["request_counts"]["ok"] == ITEMS
        service.process.kill()
        cluster.check_nothing_left()


def test_a_node_that_is_drained_is_left_by_ray_client_too() -> None:
    with RayCluster(nodes=2, cpus=1) as cluster:
        service = cluster.serve(dp_size=1, address=cluster.client_address, **PACE).wait_ready()
        (node_id,) = placed_on(service).values()
        cluster.drain(str(node_id))
        until(lambda: placed_on(service)[0] not in (node_id, None), "it stays")
        service.wait_ready()
        assert service.metric("phalanx_items_requeued_total") == 0
        service.stop()
        cluster.check_nothing_left()
