"""Nodes as network namespaces: links that are cut without a word, and what goes over them."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.netns.network import Network, missing
from tests.nodes import Cluster
from tests.service import Json, Service, serving, until

pytestmark = pytest.mark.timeout(900)
ITEMS = 2000
SHORT = {"max_tokens": 16, "ignore_eos": True}
PACE = {"step_ms": 20, "max_num_seqs": 32}
SEED_PROMPTS = [
    "Hello, my name is",
    "The president of the United States is",
    "The capital of France is",
    "The future of AI is",
]
MARK = "a prompt that nobody else may read"


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    assert missing() is None, f"these tests take {missing()}"
    with Network(3).up() as network:
        yield network


def cluster_in(network: Network, *flags: str, **more: object) -> Cluster:
    return Cluster("--insecure", *flags, master=network.address(0), enter=network.enter, **more)  # type: ignore[arg-type]


def start(cluster: Cluster, network: Network, nodes: int = 2) -> Service:
    for node in range(1, nodes):
        cluster.start_agent(node)
    return cluster.start_gateway("--host", network.address(0)).wait_ready()


def ended_once(answer: Json, items: int) -> bool:
    return [r["index"] for r in answer["results"]] == list(range(items)) and answer["request_counts"]["ok"] == items


def cut_in_the_midst(cluster: Cluster, network: Network, service: Service, down_s: float, **fields: object) -> Json:
    """The answer to a batch while whose items run node 1 is cut off for a while."""
    with service.begin([f"{MARK} {index}" for index in range(ITEMS)], sampling_params=SHORT, **fields) as pending:
        until(lambda: all(service.held), "not all ranks work")
        network.cut(1)
        time.sleep(down_s)
        assert not cluster.agents[0].ranks(), "ranks are left on the lost node"
        network.mend(1)
        return pending.answer()


def test_replicas_on_a_node_that_is_cut_off_lose_nothing_and_come_back(network: Network) -> None:
    with cluster_in(network, **PACE) as cluster:
        service = start(cluster, network)
        assert ended_once(cut_in_the_midst(cluster, network, service, 20), ITEMS)
        service.wait_ready()
        assert service.facts("node_lost")
        assert ended_once(service.batch(["x"] * 50, sampling_params=SHORT), 50)
        service.stop()


@pytest.mark.parametrize("is_moe", [False, True])
@pytest.mark.parametrize("down_s", [6, 9])  # too short to be taken for lost, and long enough for connections to break
def test_no_item_is_suspected_because_a_link_was_cut(network: Network, is_moe: bool, down_s: float) -> None:
    with cluster_in(network, "--stall-timeout-s", "4s", dp_size=2, is_moe=is_moe, **PACE) as cluster:
        service = start(cluster, network)
        with service.begin([f"{MARK} {index}" for index in range(ITEMS)], sampling_params=SHORT) as pending:
            until(lambda: all(service.held), "not all ranks work")
            network.cut(1)
            time.sleep(down_s)
            network.mend(1)
            assert ended_once(pending.answer(), ITEMS)
        service.wait_ready()
        assert {fact["kind"] for fact in service.facts("rank_lost")} <= {"node_lost"}
        service.stop()


def test_a_lockstep_group_over_three_nodes_waits_for_the_one_that_is_cut_off(network: Network) -> None:
    with cluster_in(network, node_size=3, dp_size=3, is_moe=True, **PACE) as cluster:
        service = start(cluster, network, 3)
        assert ended_once(cut_in_the_midst(cluster, network, service, 20), ITEMS)
        assert service.ranks()[0]["restarts_by_cause"] == {"node_lost": 1}
        service.stop()


def test_a_killed_gateway_leaves_nothing_on_any_node(network: Network) -> None:
    with cluster_in(network, node_size=3, dp_size=6, **PACE) as cluster:
        service = start(cluster, network, 3)
        with service.begin(["x"] * ITEMS, sampling_params=SHORT):
            until(lambda: all(service.held), "not all ranks work")
            cluster.kill_gateway()
            for agent in cluster.agents:
                until(lambda agent=agent: not agent.ranks(), "ranks are left", 10)  # type: ignore[misc]
            until(lambda: not service.processes(), "processes are left", 10)


@pytest.mark.parametrize("encrypted", [True, False])
def test_no_prompt_can_be_read_on_the_wire(network: Network, tmp_path: Path, encrypted: bool) -> None:
    """Without keys it can be: or nothing would have been captured."""
    packets = tmp_path / "packets"
    with cluster_in(network, **PACE) as cluster:
        if not encrypted:
            cluster.drop_keys()
        service = start(cluster, network)
        command = [*network.enter(1), sys.executable, "-m", "tests.netns.capture", str(packets)]
        capture = subprocess.Popen(command)
        try:
            until(packets.exists, "nothing is captured")
            time.sleep(0.5)
            service.batch([f"{MARK} {index}" for index in range(200)], sampling_params=SHORT)
            time.sleep(0.5)
        finally:
            capture.kill()
            capture.wait()
        assert (MARK.encode() in packets.read_bytes()) is not encrypted
        service.stop()


def kill(processes: list[psutil.Process], title: str) -> None:
    """The one of this title, without a word."""
    (process,) = [process for process in processes if title in " ".join(process.cmdline())]
    process.kill()


def test_real_engines_in_lock_step_over_two_nodes(network: Network) -> None:
    """The seed's prompts; greedy texts as on one node; and again with the link cut, a rank and an agent killed in the
    midst of it. Last the gateway is killed."""
    prompts = [f"{index}. {prompt}" for index, prompt in enumerate(SEED_PROMPTS * 100)]
    greedy = {"temperature": 0.0, "max_tokens": 48, "ignore_eos": True}
    with cluster_in(network, dp_size=2, engine="vllm") as cluster:
        service = start(cluster, network)
        sampled = service.batch(
            [{"prompt": p, "sampling_params": {"max_tokens": (16, 20)[i % 2]}} for i, p in enumerate(prompts)],
            sampling_params={"temperature": 0.8, "top_p": 0.95},
        )
        assert ended_once(sampled, 400) and {r["rank"] for r in sampled["results"]} == {0, 1}
        undisturbed = service.batch(prompts, sampling_params=greedy)

        def disturbed(act: Callable[[], None]) -> None:
            """It happens in the midst of the batch, whose texts are as before."""
            lives = {rank["incarnation"] for rank in service.ranks()}
            with service.begin(prompts, sampling_params=greedy) as pending:
                until(lambda: all(service.held), "not all ranks work")
                act()
                answer = pending.answer()
            assert ended_once(answer, 400)
            assert texts(answer) == texts(undisturbed)
            assert {rank["incarnation"] for rank in service.ranks()} == {life + 1 for life in lives}

        def cut_for_a_while() -> None:
            network.cut(1)
            time.sleep(15)
            network.mend(1)

        def kill_the_agent() -> None:
            cluster.agents[0].process.kill()
            cluster.agents[0].check_nothing_left(10)
            cluster.start_agent()

        disturbed(cut_for_a_while)
        disturbed(lambda: kill(cluster.agents[0].ranks(), "phalanx-rank 1"))
        disturbed(kill_the_agent)
        with service.begin(prompts, sampling_params=greedy):
            until(lambda: all(service.held), "not all ranks work")
            cluster.kill_gateway()
            until(lambda: not service.processes(), "processes are left on node 0", 10)
            until(lambda: not cluster.agents[1].ranks(), "processes are left on node 1", 10)
    with serving(engine="vllm") as alone:
        assert texts(alone.batch(prompts, sampling_params=greedy)) == texts(undisturbed)


def texts(answer: Json) -> list[str]:
    return [result["outputs"][0]["text"] for result in answer["results"]]
