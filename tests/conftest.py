"""What all tests share: the project's own small models for those on real vLLM, built once, and hypothesis' patience."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

# How long one example takes is the machine's business.
hypothesis.settings.register_profile("phalanx", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("phalanx")


class ByServices(LoadScopeScheduling):
    """What runs beside what (`make test` has two workers): a file's tests stay together, for they share services, and
    so do all on real vLLM, which would only take cores from each other."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return "e2e" if path.startswith("tests/e2e/") else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByServices:  # Any: xdist's producer of lines
    return ByServices(config, log)


@pytest.fixture(scope="session")
def moe_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny mixture of experts."""
    return _build_model("moe", tmp_path_factory)


@pytest.fixture(scope="session")
def trained_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model."""
    return _build_model("trained", tmp_path_factory)


@pytest.fixture(scope="session")
def dense_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny dense model."""
    return _build_model("dense", tmp_path_factory)


@pytest.fixture(scope="session")
def embedding_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model that makes vectors."""
    return _build_model("embedding", tmp_path_factory)


def _build_model(shape: str, folders: pytest.TempPathFactory) -> Path:
    folder = folders.mktemp("models") / shape
    subprocess.run(
        [sys.executable, "-P", "-m", "engines", "build-model", "--shape", shape, "--out", str(folder)],
        check=True,
        timeout=120,
        capture_output=True,
    )
    return folder
