"""Real vLLM where Ray places it: a lock-step group of two ranks on two nodes, on CPUs."""

from tests.ray_cluster import RayCluster, placed_on


def test_real_engines_in_lockstep_answer_from_two_nodes() -> None:
    with RayCluster(nodes=2, cpus=1) as cluster:
        service = cluster.serve("--ray-strategy", "strict_spread", dp_size=2, engine="vllm").wait_ready()
        assert len(set(placed_on(service).values())) == 2
        assert {rank["group_kind"] for rank in service.ranks()} == {"lockstep"}
        answer = service.batch(["Q: What is the capital of France?\nA:"] * 8, sampling_params={"temperature": 0})
        assert answer["request_counts"]["ok"] == 8
        assert len({result["outputs"][0]["text"] for result in answer["results"]}) == 1
        assert {result["rank"] for result in answer["results"]} == {0, 1}
        service.stop()
        cluster.check_nothing_left()
