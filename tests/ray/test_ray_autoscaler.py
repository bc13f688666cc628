"""A cluster that Ray's own autoscaler makes larger and smaller, with a provider that starts nodes on this machine."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.ray_cluster import RayCluster, placed_on
from tests.service import until

HEAD, WORKER = "ray.head.default", "worker"
IDLE_S = 6.0  # how long a node without work is kept
GPUS = 2  # of each node that it may start
MOST_NODES = 3


def configuration(gcs_address: str, *, is_v2: bool) -> dict[str, Any]:
    """An autoscaler's, for Ray's provider of pretended machines."""
    lists = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
    commands = ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files")
    return {
        "cluster_name": "phalanx",
        "max_workers": MOST_NODES,
        "provider": {
            "type": "external",  # its defaults, by its own name, are not in Ray's wheels
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": gcs_address,
            "launch_multiple": is_v2,
        },
        "available_node_types": {
            HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            WORKER: {
                "resources": {"CPU": 2, "GPU": GPUS},
                "node_config": {},
                "min_workers": 0,
                "max_workers": MOST_NODES,
            },
        },
        "head_node_type": HEAD,
        "idle_timeout_minutes": IDLE_S / 60,
        "upscaling_speed": 1.0,
        "auth": {},
        "docker": {},
        "file_mounts": {},
    } | {name: [] for name in (*lists, *commands)}


@pytest.mark.parametrize("is_v2", [False, True], ids=["v1", "v2"])
def test_a_cluster_without_nodes_grows_for_the_ranks_and_shrinks_after_them(tmp_path: Path, *, is_v2: bool) -> None:
    cluster = RayCluster(nodes=0)
    config = tmp_path / "autoscaler.json"
    cluster.autoscale(config, is_v2=is_v2)
    config.write_text(json.dumps(configuration(cluster.address, is_v2=is_v2)))
    with cluster:
        assert cluster.head.raylets() == 1
        service = cluster.serve("--device", "cuda", "--node-timeout-s", "120").wait_ready()
        (node_id,) = set(placed_on(service).values())  # both fit on one
        assert service.batch(["a prompt"] * 10)["request_counts"]["ok"] == 10
        assert service.client.post("/v1/ranks/scale", json={"dp_size": 4}).status_code == 202
        until(lambda: len(service.ranks()) == 4 and service.health()["status"] == "ok", "it does not grow")
        assert len(set(placed_on(service).values())) == 2
        assert service.client.post("/v1/ranks/scale", json={"dp_size": 2}).status_code == 202
        until(lambda: cluster.head.raylets() == 2, "the second node is not given back")
        assert set(placed_on(service).values()) == {node_id} and service.health()["status"] == "ok"
        service.stop()
        until(lambda: cluster.head.raylets() == 1, "the first node is not given back")
        cluster.check_nothing_left()
