"""What a user without special rights may do, for tests that root may run."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root becomes nobody meanwhile; anybody else stays who he is."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


@contextmanager
def public_folder() -> Iterator[Path]:
    """A temporary folder that everybody reaches, as pytest's are not; what is made in it belongs to who makes it."""
    with tempfile.TemporaryDirectory(prefix="px-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)
