"""Two nodes on one machine, with simulated ranks: what becomes of items, ranks and processes when one is lost."""

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nodes import Agent, Cluster, clustered
from tests.service import Json, Service, until

ITEMS = 600
SHORT = {"max_tokens": 16, "ignore_eos": True}
Trio = tuple[Cluster, Service, Agent]
PACE = {"step_ms": 20, "max_num_seqs": 32}  # a batch takes a second or two


@pytest.fixture(scope="module")
def replicas() -> Iterator[Trio]:
    with clustered(**PACE) as trio:
        yield trio


@pytest.fixture(scope="module")
def lockstep() -> Iterator[Trio]:
    with clustered(dp_size=2, is_moe=True, **PACE) as trio:
        yield trio


def nodes(service: Service) -> list[Json]:
    found: list[Json] = service.client.get("/v1/nodes").json()["data"]
    return found


def printed(service: Service, rank: int) -> Json | None:
    found: Json = service.client.get(f"/v1/ranks/{rank}").json()
    return found if any("rank_serving" in line for line in found["log_tail"]) else None


def ended_once(answer: Json, items: int = ITEMS) -> bool:
    """Whether each item has exactly one result, and a good one."""
    return [r["index"] for r in answer["results"]] == list(range(items)) and answer["request_counts"]["ok"] == items


def run_with(service: Service, act: "object", items: int = ITEMS) -> Json:
    """A batch in whose midst something is done."""
    with service.begin(["a prompt"] * items, sampling_params=SHORT) as pending:
        until(lambda: all(service.held), "not all ranks work")
        act()  # type: ignore[operator]
        return pending.answer()


def test_items_are_spread_over_the_ranks_of_all_nodes(replicas: Trio) -> None:
    _, service, _ = replicas
    answer = service.batch(["a prompt"] * ITEMS, sampling_params=SHORT)
    assert ended_once(answer)
    assert Counter(r["rank"] for r in answer["results"]).keys() == {0, 1, 2, 3}


def test_nodes_and_their_ranks_are_shown(replicas: Trio) -> None:
    _, service, agent = replicas
    here, there = nodes(service)
    assert (here["node"], here["state"], here["ranks"], here["pid"]) == (0, "joined", [0, 1], service.process.pid)
    assert (there["node"], there["state"], there["ranks"], there["pid"]) == (1, "joined", [2, 3], agent.process.pid)
    assert there["heard_age_s"] < 5 and there["cores"] > 0
    assert [rank["node_rank"] for rank in service.ranks()] == [0, 0, 1, 1]
    log = until(lambda: printed(service, 3), "what the rank printed is not shown")
    assert log["log_file"].endswith("rank-3.log") and str(agent.folder) in log["log_file"]
    assert any("rank_serving" in line for line in log["log_tail"])


def test_a_killed_agent_loses_no_item_and_comes_back(replicas: Trio) -> None:
    cluster, service, agent = replicas
    answer = run_with(service, agent.process.kill)
    assert ended_once(answer)
    agent.check_nothing_left()
    assert service.health()["status"] == "degraded"
    assert nodes(service)[1]["state"] == "lost"
    cluster.start_agent()
    service.wait_ready()
    assert ended_once(service.batch(["a prompt"] * ITEMS, sampling_params=SHORT))


def test_a_killed_rank_on_another_node_is_started_again_there(replicas: Trio) -> None:
    _, service, _ = replicas
    before = service.ranks()[2]
    answer = run_with(service, lambda: os.kill(before["pid"], signal.SIGKILL))
    assert ended_once(answer)
    service.wait_ready()
    after = service.ranks()[2]
    assert (after["incarnation"], after["restarts_by_cause"].get("died")) == (before["incarnation"] + 1, 1)


def test_a_killed_guardian_on_another_node_leaves_nothing(replicas: Trio) -> None:
    cluster, service, _ = replicas
    guardians = [p for p in cluster.agents[-1].ranks() if "guardian 3" in " ".join(p.cmdline())]
    answer = run_with(service, guardians[0].kill)
    assert ended_once(answer)
    service.wait_ready()
    assert len([p for p in cluster.agents[-1].ranks() if "phalanx-rank 3" in " ".join(p.cmdline())]) == 1


def test_an_agent_that_is_asked_to_end_finishes_what_its_ranks_hold(replicas: Trio) -> None:
    cluster, service, _ = replicas
    agent = cluster.agents[-1]
    lost_before = service.metric("phalanx_items_requeued_total")
    answer = run_with(service, lambda: agent.process.send_signal(signal.SIGTERM))
    assert ended_once(answer)
    assert agent.wait() == 0
    agent.check_nothing_left()
    assert service.metric("phalanx_items_requeued_total") == lost_before
    assert nodes(service)[1]["state"] == "lost"
    assert not service.facts("node_lost", reason=f"node 1 ({nodes(service)[1]['name']}) has left")
    cluster.start_agent()
    service.wait_ready()


def test_a_killed_gateway_leaves_no_rank_on_any_node_and_the_next_one_has_them_again() -> None:
    with clustered() as (cluster, service, agent):
        cluster.kill_gateway()
        until(lambda: not agent.ranks(), "ranks are left", 10)
        until(lambda: not service.processes(), "processes are left", 10)
        assert agent.process.poll() is None
        again = cluster.start_gateway().wait_ready()
        assert ended_once(again.batch(["a prompt"] * ITEMS, sampling_params=SHORT))
        again.stop()


def test_a_lockstep_group_waits_for_its_node_and_starts_whole(lockstep: Trio) -> None:
    cluster, service, agent = lockstep
    lives = {rank["incarnation"] for rank in service.ranks()}
    with service.begin(["a prompt"] * ITEMS, sampling_params=SHORT) as pending:
        until(lambda: all(service.held), "not all ranks work")
        agent.process.kill()
        until(lambda: {rank["state"] for rank in service.ranks()} == {"pending"}, "it does not wait")
        assert service.health()["reason"].endswith("waiting for node 1")
        cluster.start_agent()
        assert ended_once(pending.answer())
    after = service.ranks()
    assert {rank["incarnation"] for rank in after} == {life + 1 for life in lives}
    assert after[0]["restarts_by_cause"] == {"node_lost": 1}
    assert not service.facts("group_restarting")


def test_items_on_trial_do_not_wait_for_a_node_that_is_lost() -> None:
    backoff = ("--restart-backoff-s", "1s", "--max-restart-backoff-s", "1s")
    with Cluster(*backoff, dp_size=2, **PACE) as cluster:
        agent = cluster.start_agent()
        service = cluster.start_gateway().wait_ready()

        def lose_rank_and_node() -> None:
            os.kill(service.ranks()[1]["pid"], signal.SIGKILL)
            until(lambda: service.facts("group_restarting"), "its items are not on trial")
            agent.process.kill()

        assert ended_once(run_with(service, lose_rank_and_node))
        assert nodes(service)[1]["state"] == "lost"
        service.stop()


def test_a_service_waits_for_a_node_that_comes_late() -> None:
    with Cluster(dp_size=2, is_moe=True) as cluster:
        service = cluster.start_gateway()
        until(lambda: service.facts("group_awaits_nodes"), "it does not wait")
        time.sleep(0.5)
        cluster.start_agent()
        service.wait_ready()
        service.stop()


def test_who_has_not_come_is_named() -> None:
    with Cluster("--node-timeout-s", "1", dp_size=3, node_size=3, is_moe=True) as cluster:
        service = cluster.start_gateway()
        assert service.wait() == 1
        assert "nodes 1, 2 have not joined within 1 s (--node-timeout-s" in service.log.splitlines()[-1]


def test_a_master_that_does_not_answer_ends_the_start(tmp_path: Path) -> None:
    with Cluster("--node-timeout-s", "1") as cluster:
        agent = cluster.start_agent()
        assert agent.wait() == 2
        assert "phalanx: nobody has answered at tcp://127.0.0.2:" in agent.log.splitlines()[-1]
        assert agent.ranks() == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--seed", "7"), "seed is 7 on node 1 and null on node 0"),
        (("--served-model-name", "x", "--tp-size", "2"), "tp_size is 2 on node 1 and 1 on node 0"),
        ((), "node 1 is "),
    ],
    ids=["engine argument", "size", "taken"],
)
def test_a_node_that_does_not_agree_is_refused_and_nothing_else_notices(
    replicas: Trio, flags: tuple[str, ...], words: str
) -> None:
    cluster, service, _ = replicas
    lives = [rank["incarnation"] for rank in service.ranks()]
    stranger = cluster.start_agent(1, *flags)
    assert stranger.wait() == 2
    assert f"phalanx: node 0 refuses this node: {words}" in stranger.log
    assert [rank["incarnation"] for rank in service.ranks()] == lives
    assert service.health()["status"] == "ok"


def test_a_node_of_another_version_is_refused_and_nothing_else_notices(replicas: Trio) -> None:
    cluster, service, _ = replicas
    lives = [rank["incarnation"] for rank in service.ranks()]
    older = "import sys, phalanx; phalanx.__version__ = '0.0.1'; from phalanx.cli import main; main()"
    stranger = cluster.start_agent(1, program=(sys.executable, "-c", older))
    assert stranger.wait() == 2
    assert "it is Phalanx 0.0.1 (protocol 2), and node 0 is" in stranger.log
    assert [rank["incarnation"] for rank in service.ranks()] == lives
    assert service.health()["status"] == "ok"


def test_a_peer_without_the_key_gets_nothing_and_is_counted(replicas: Trio) -> None:
    cluster, service, _ = replicas
    with Cluster() as strangers:
        strangers._flags = (*strangers._flags, "--master-port", str(cluster.port), "--node-timeout-s", "2")
        assert strangers.start_agent().wait() == 2
        assert strangers.start_agent(1, "--insecure").wait() == 2
    assert service.client.get("/v1/nodes").json()["refused_peers"] >= 2
    assert service.health()["status"] == "ok"
