"""A lock-step group over two nodes: real vLLM, an agent, and the wire between them, on one machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Reference, as_items, mixed_prompts
from tests.nodes import Cluster
from tests.service import Service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def trained_reference(trained_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    """What one engine alone says."""
    reference = Reference(trained_model, tmp_path_factory.mktemp("trained-reference"))
    yield reference
    reference.discard()


@pytest.fixture(scope="module")
def service(trained_reference: Reference, trained_model: Path) -> Iterator[Service]:
    """Rank 0 on node 0, rank 1 on node 1. The reference works meanwhile."""
    with Cluster("--model", str(trained_model), "--enforce-eager", dp_size=2, engine="vllm") as cluster:
        agent = cluster.start_agent()
        running = cluster.start_gateway().wait_ready()
        running.errors_expected = False
        yield running
        running.stop()
        agent.process.terminate()
        assert agent.wait() == 0
        agent.check_nothing_left()


def test_ranks_on_two_nodes_say_what_one_engine_alone_says(service: Service, trained_reference: Reference) -> None:
    prompts = mixed_prompts()
    answer = service.batch(as_items(prompts), sampling_params={"temperature": 0.0, "max_tokens": 12})
    assert [result["outputs"][0]["text"] for result in answer["results"]] == trained_reference.texts()
    assert {result["rank"] for result in answer["results"]} == {0, 1}
    assert [(rank["node_rank"], rank["group_kind"]) for rank in service.ranks()] == [(0, "lockstep"), (1, "lockstep")]
    assert service.ranks()[1]["processes"]
