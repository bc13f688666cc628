"""How full the journal is, for metrics: looked up now and then, so that a scrape waits for no disk."""

import asyncio
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from app.journal.place import FolderPlace, Place
from app.journal.records import Sizes

if TYPE_CHECKING:
    from app.journal.journal import Journal


class Disk(msgspec.Struct, frozen=True):
    """Bytes of the database's files, and those that are free where they lie. NaN for a server's."""

    file_bytes: float = math.nan
    free_bytes: float = math.nan


class Figures(msgspec.Struct, frozen=True):
    """What is stored, and what is left of the disk."""

    sizes: Sizes = Sizes()
    disk: Disk = Disk()


def free_bytes(place: Place) -> float:
    """Free where the database's files are; NaN for a server's. Blocks for as long as the disk takes."""
    return _disk(place.file).free_bytes if isinstance(place, FolderPlace) else math.nan


async def read_figures(journal: "Journal", place: Place) -> Figures:
    """As they are now. Raises JournalUnavailable."""
    sizes = await journal.sizes()
    disk = await asyncio.to_thread(_disk, place.file) if isinstance(place, FolderPlace) else Disk()
    return Figures(sizes, disk)


def _disk(file: Path) -> Disk:
    log = file.with_name(file.name + "-wal")
    try:
        room = os.statvfs(file.parent)
        size = sum(path.stat().st_size for path in (file, log) if path.exists())
    except OSError:  # somebody has removed it, which the writer notices
        return Disk()
    return Disk(size, room.f_bavail * room.f_frsize)
