"""How many random rounds there are, and which; and the schema that the manifest is checked against."""

import random

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """make ray ARGS='--rounds 50 --seed 7 --crd ray.io_rayjobs.yaml'"""
    parser.addoption("--rounds", type=int, default=12, help="random rounds of kills")
    parser.addoption("--seed", type=int, default=None, help="of the rounds; printed where it is not given")
    parser.addoption(
        "--crd", default=None, help="file or URL of KubeRay's RayJob schema, to check the manifest against"
    )


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--rounds", 12))


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    seed = request.config.getoption("--seed", None)
    seed = random.randrange(10**6) if seed is None else seed
    print(f"--seed {seed}")  # noqa: T201  to repeat what has failed
    return random.Random(seed)
