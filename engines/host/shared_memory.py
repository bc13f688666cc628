"""What a rank's processes put into /dev/shm, so that it can be removed when they are gone.

A process that is killed frees none of its POSIX shared memory: hundreds of MiB would stay. Not everything there is a
rank's: a model may lie in /dev/shm, and other programs use it. So only what is mapped by the rank's processes, was
not there before them, and is mapped by nobody else is removed.
"""

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path("/dev/shm")  # noqa: S108  POSIX shared memory lives there, it is not a temporary file of ours
_IN_MAPS = re.compile(rb" (/dev/shm/[^/\n]+?)(?: \(deleted\))?\n")


class SharedMemory:
    """The files in /dev/shm of one incarnation. Made before its first process starts."""

    def __init__(self) -> None:
        self._before = set(FOLDER.iterdir()) if FOLDER.is_dir() else set()
        self._found: set[Path] = set()

    def look(self, pids: Iterable[int]) -> None:
        """Notes what these processes have mapped now: it cannot be known any more when they are dead."""
        for pid in pids:
            self._found |= mapped_by(pid) - self._before

    def remove(self) -> bool:
        """Removes what was found, but for what another living process has mapped. Whether there was any."""
        left = {path for path in self._found if path.exists()}
        if left:
            left -= _mapped_by_others()
        removed = False
        for path in left:
            with contextlib.suppress(OSError):
                path.unlink()
                removed = True
        return removed


def mapped_by(pid: int) -> set[Path]:
    """Files directly in /dev/shm that the process has mapped now. None when it is gone, or is not ours to look at."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_bytes()
    except OSError:
        return set()
    return {Path(os.fsdecode(name)) for name in _IN_MAPS.findall(maps)}


def _mapped_by_others() -> set[Path]:
    others = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    return {path for pid in others if pid != os.getpid() for path in mapped_by(pid)}
