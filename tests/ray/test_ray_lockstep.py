"""A lock-step group that Ray places: it starts whole, wherever its bundles are."""

import os
import signal

from tests.ray_cluster import RayCluster, placed_on
from tests.service import until

ITEMS = 2000
SHORT = {"max_tokens": 16, "ignore_eos": True}
PACE = {"step_ms": 20, "max_num_seqs": 32, "is_moe": True}


def test_a_lockstep_group_is_spread_over_nodes_and_loses_no_item_with_one_of_them() -> None:
    with RayCluster(nodes=3, cpus=2) as cluster:
        service = cluster.serve("--ray-strategy", "strict_spread", dp_size=2, **PACE).wait_ready()
        before = placed_on(service)
        assert len(set(before.values())) == 2
        assert {rank["group"] for rank in service.ranks()} == {0}
        lost = cluster.with_rank(1)
        with service.begin(["a prompt"] * ITEMS, sampling_params=SHORT) as pending:
            until(lambda: all(service.held), "not all ranks work")
            lost.kill()
            answer = pending.answer()
        assert [r["index"] for r in answer["results"]] == list(range(ITEMS))
        assert answer["request_counts"]["ok"] == ITEMS
        service.wait_ready()
        after = placed_on(service)
        assert len(set(after.values())) == 2 and before[1] not in after.values() and before[0] == after[0]
        assert service.ranks()[0]["restarts_by_cause"] == {"node_lost": 1}
        with service.begin(["a prompt"] * ITEMS, sampling_params=SHORT) as pending:  # and its first rank
            until(lambda: all(service.held), "not all ranks work")
            os.kill(cluster.with_rank(0).titled("phalanx-agent 1")[0], signal.SIGKILL)
            assert pending.answer()["request_counts"]["ok"] == ITEMS
        service.wait_ready()
        service.stop()
        cluster.check_nothing_left()


def test_a_group_that_ray_has_moved_together_is_spread_anew_when_there_is_room() -> None:
    with RayCluster(nodes=2, cpus=2) as cluster:
        service = cluster.serve("--ray-strategy", "spread", dp_size=2, **PACE).wait_ready()
        assert len(set(placed_on(service).values())) == 2
        cluster.with_rank(1).kill()
        until(lambda: len(set(placed_on(service).values())) == 1 and service.health()["status"] == "ok", "not together")
        cluster.add_node()
        until(lambda: len(set(placed_on(service).values())) == 2 and service.health()["status"] == "ok", "not spread")
        service.stop()
        cluster.check_nothing_left()
