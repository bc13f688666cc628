"""One service with short deadlines, which every attack leaves unharmed."""

from collections.abc import Iterator

import pytest

from tests.raw_client import FLAGS, check_unharmed
from tests.service import Service, serving


@pytest.fixture(scope="package")
def service() -> Iterator[Service]:
    """The service."""
    with serving(*FLAGS) as service:
        yield service


@pytest.fixture(autouse=True)
def unharmed(service: Service) -> Iterator[None]:
    """After each attack."""
    yield
    check_unharmed(service)
