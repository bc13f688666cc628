"""The project's own small models, for the tests on real vLLM: built once."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def moe_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny mixture of experts."""
    return _build_model("moe", tmp_path_factory)


@pytest.fixture(scope="session")
def dense_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny dense model."""
    return _build_model("dense", tmp_path_factory)


def _build_model(shape: str, folders: pytest.TempPathFactory) -> Path:
    folder = folders.mktemp("models") / shape
    subprocess.run(
        [sys.executable, "-P", "-m", "engines", "build-model", "--shape", shape, "--out", str(folder)],
        check=True,
        timeout=120,
        capture_output=True,
    )
    return folder
