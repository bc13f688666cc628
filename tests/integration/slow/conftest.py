"""Two services, which every attack leaves unharmed."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests import raw_client
from tests.raw_client import FLAGS, IMPATIENT
from tests.service import Service, serving


@pytest.fixture(scope="package")
def service() -> Iterator[Service]:
    """One that gives a client time."""
    with serving(*FLAGS) as service:
        yield service


@pytest.fixture(scope="package")
def impatient() -> Iterator[Service]:
    """One with short deadlines, for tests that wait until they are over."""
    with serving(*IMPATIENT) as service:
        yield service


@pytest.fixture(autouse=True)
def unharmed(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each attack."""
    with ExitStack() as stack:
        for name in {"service", "impatient"} & set(request.fixturenames):
            stack.enter_context(raw_client.unharmed(request.getfixturevalue(name)))
        yield
