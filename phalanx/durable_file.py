"""Files that are replaced as a whole, and are there after a loss of power."""

import os
from pathlib import Path


def write_durably(path: Path, data: bytes) -> None:
    """Whoever reads it finds the former one or this one. A disk that does not take it keeps no part of it."""
    new = path.with_name(path.name + ".new")
    try:
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
