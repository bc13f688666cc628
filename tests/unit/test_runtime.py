"""The gateway's private folder, and what other gateways have left."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.host.runtime import Runtime


@pytest.fixture
def temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="px-", dir="/tmp") as folder:
        yield Path(folder)


def test_a_runtime_is_private_and_goes_with_all_that_is_in_it(temporary_folder: Path) -> None:
    runtime = Runtime(temporary_folder)
    assert runtime.path.parent == temporary_folder
    assert runtime.path.stat().st_mode & 0o077 == 0
    (runtime.path / "0.1").mkdir()
    runtime.remove()
    runtime.remove()
    assert list(temporary_folder.iterdir()) == []


def test_what_a_dead_gateway_left_is_removed_and_a_living_ones_stays(temporary_folder: Path) -> None:
    living = Runtime(temporary_folder)
    dead = temporary_folder / "phalanx-dead"
    (dead / "0.1").mkdir(parents=True)
    (dead / "lock").touch()
    foreign = temporary_folder / "phalanx-no-runtime"  # whatever it is, it has no lock of ours
    foreign.mkdir()
    runtime = Runtime(temporary_folder)
    assert sorted(temporary_folder.iterdir()) == sorted([living.path, foreign, runtime.path])
    for each in (living, runtime):
        each.remove()
