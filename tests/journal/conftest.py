"""The stores that the journal is tested on: SQLite always, and PostgreSQL too with --postgres (`make journal`)."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.journal.opening import upgrade
from app.journal.place import FolderPlace, Place, ServerPlace
from tests.postgres import MISSING, Cluster, binaries

TMPFS_MIB = 32


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--postgres", action="store_true", help="Test on PostgreSQL, too, in a cluster of its own.")
    parser.addoption(
        "--kills", type=int, default=0, help="How many gateways test_gateway_kills.py ends; default: none."
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" in metafunc.fixturenames:
        with_server = metafunc.config.getoption("--postgres", default=False)
        metafunc.parametrize("place", ["sqlite", "postgres"] if with_server else ["sqlite"], indirect=True)


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if not request.config.getoption("--postgres", default=False):
        pytest.skip("`make journal` runs it")
    if binaries() is None:
        pytest.exit(MISSING, returncode=2)
    cluster = Cluster()
    yield cluster
    cluster.remove()


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """Whoever takes its time over whole gateways asks for it."""
    asked: int = request.config.getoption("--kills", default=0)
    if not asked:
        pytest.skip("`make journal` runs it")
    return asked


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty journal's place."""
    if request.param == "sqlite":
        yield FolderPlace(tmp_path / "journal")
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    cluster.create("a_test")
    place = ServerPlace(cluster.url("a_test"))
    upgrade(place)
    yield place
    cluster.drop("a_test")


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of a few MiB."""
    with tempfile.TemporaryDirectory(prefix="phalanx-journal.") as folder:
        mount = ["/bin/mount", "-t", "tmpfs", "-o", f"size={TMPFS_MIB}m", "tmpfs", folder]
        if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
            pytest.skip("only root may mount a small tmpfs, and not in every container")
        yield Path(folder)
        subprocess.run(["/bin/umount", folder], check=True)
