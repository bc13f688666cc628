"""Ranks placed by Ray, the small case: a cluster of the gateway's own, and addresses where there is none."""

from pathlib import Path

import psutil
import pytest

from tests.ray_cluster import placed_on
from tests.service import Service, serving, starting, until, with_title

RAY = ("--launcher", "ray")


def libraries_of_ray(service: Service) -> list[str]:
    """That the gateway's own process has loaded."""
    return [
        file.path for file in psutil.Process(service.process.pid).memory_maps() if "site-packages/ray/" in file.path
    ]


def test_a_cluster_of_the_gateways_own_runs_the_ranks_and_ends_with_it(tmp_path: Path) -> None:
    with serving(*RAY, "--ray-address", "local", variables={"HOME": str(tmp_path)}) as service:
        answer = service.batch(["a prompt"] * 20, sampling_params={"max_tokens": 4})
        assert {result["status"] for result in answer["results"]} == {"ok"}
        assert {result["rank"] for result in answer["results"]} == {0, 1}
        (node_id,) = set(placed_on(service).values())
        assert node_id and len(node_id) == 56
        assert libraries_of_ray(service) == []  # its driver has them


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:9", "no Ray cluster answers at 127.0.0.1:9 (Connection refused): start one there with `ray start"),
        ("auto", "no Ray cluster runs on this machine: start one with `ray start --head`"),
    ],
)
def test_where_no_cluster_is_the_start_ends_with_a_sentence(address: str, words: str) -> None:
    if address == "auto" and with_title(list(psutil.process_iter()), "raylet/raylet"):
        pytest.skip("another Ray cluster runs on this machine, and would be found")
    with starting(*RAY, "--ray-address", address) as service:
        assert service.wait() == 2
        assert service.log.splitlines()[-1].startswith(f"phalanx: --ray-address (PHALANX_RAY_ADDRESS): {words}")
        until(lambda: not service.processes(), "processes are left")


def test_a_gateway_that_does_not_use_ray_pays_nothing_for_it() -> None:
    with serving() as service:
        assert libraries_of_ray(service) == []
        assert not service.titled("ray")
