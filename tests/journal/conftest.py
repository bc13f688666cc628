"""The stores that the journal is tested on: SQLite always, and PostgreSQL too with --postgres (`make journal`)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.journal.opening import upgrade
from app.journal.place import FolderPlace, Place, ServerPlace
from tests.postgres import MISSING, Cluster, binaries


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--postgres", action="store_true", help="Test on PostgreSQL, too, in a cluster of its own.")


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
