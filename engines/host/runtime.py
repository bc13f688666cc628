"""A private folder of a gateway, locked for as long as it lives: for the ranks' sockets and their private folders, and
for a journal that is not to be kept.

A gateway that was killed cannot remove its own. Its guardians remove the one of the sockets (engines/host/guardian.py);
where none was left, and all others, the next gateway of the same user does.
"""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from engines.contract.spec import RUNTIME_LOCK
from engines.logs import get_logger

logger = get_logger("ranks")
PREFIX = "phalanx-"


class Runtime:
    """A private folder."""

    def __init__(self, parent: Path, prefix: str = PREFIX) -> None:
        """Below `parent`, whose path must be short. Raises OSError where none can be made."""
        sweep(parent, prefix)
        try:
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        except OSError as error:
            raise OSError(f"no folder of its own can be made in {parent}: {error}") from error
        self._lock = _lock(self.path)

    def ensure(self) -> None:
        """Makes it anew if somebody has removed it: cleaners of temporary folders do, after some days."""
        if not self.path.exists():
            logger.warning("runtime_made_anew", folder=str(self.path))
            self.path.mkdir(mode=0o700)
            if self._lock is not None:
                os.close(self._lock)
            self._lock = _lock(self.path)

    def remove(self) -> None:
        """With all that is in it. May be called twice."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def sweep(parent: Path, prefix: str = PREFIX) -> None:
    """Removes what gateways of this user have left that are no more."""
    for folder in parent.glob(f"{prefix}*"):
        try:
            if folder.stat().st_uid != os.getuid() or not (folder / RUNTIME_LOCK).is_file():
                continue
        except OSError:
            continue
        lock = _lock(folder)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
            logger.info("runtime_swept", folder=str(folder))


def _lock(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock; None while somebody else does."""
    try:
        descriptor = os.open(folder / RUNTIME_LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
