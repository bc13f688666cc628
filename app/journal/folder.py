"""The data folder: made for this user alone, and locked by the one gateway that uses it."""

import contextlib
import fcntl
import os
import socket
from pathlib import Path

from app.journal.errors import FolderUnusable, JournalInUse
from app.journal.place import FolderPlace

LOCK_NAME = "lock"


def this_process() -> str:
    """Who uses a journal, for whoever finds it in use."""
    return f"pid {os.getpid()} on {socket.gethostname()}"


class DataFolder:
    """A folder that is locked until `release`. Raises FolderUnusable and JournalInUse."""

    def __init__(self, place: FolderPlace) -> None:
        self._place = place
        self._make()
        self._lock = self._take_lock(place.folder / LOCK_NAME)

    def release(self) -> None:
        """Others may use it. May be called twice."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _make(self) -> None:
        folder = self._place.folder
        try:
            folder.mkdir(mode=0o700, parents=self._place.is_default, exist_ok=True)
        except FileNotFoundError:
            raise FolderUnusable(
                f"the data folder {folder} cannot be made: there is no folder {folder.parent}; make it first (is a "
                "volume not mounted?), or name another one with --data-dir"
            ) from None
        except OSError as error:
            raise _unusable(folder, error) from None

    def _take_lock(self, path: Path) -> int | None:
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _unusable(path.parent, error) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(lock, 400).decode(errors="replace").strip() or "another process"
            os.close(lock)
            if not isinstance(error, BlockingIOError):
                raise _unusable(path.parent, error) from None
            raise JournalInUse(
                f"{self._place} is used by {holder}: stop that one, or name another folder with --data-dir"
            ) from None
        with contextlib.suppress(OSError):  # on a full disk: the lock holds without its text
            os.ftruncate(lock, 0)
            os.pwrite(lock, this_process().encode(), 0)
        return lock


def _unusable(folder: Path, error: OSError) -> FolderUnusable:
    return FolderUnusable(
        f"the data folder {folder} cannot be used ({error.strerror or error}): name a folder that this user (uid "
        f"{os.geteuid()}) may write, with --data-dir"
    )
