"""What a killed guardian leaves behind: its rank ends by itself, and what does not is ended here.

The gateway is a subreaper, so orphans become its children. Those of ranks have a rank's environment; others, such as
those of a container's other programs, are left alone.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Container, Sequence
from pathlib import Path

import psutil

from engines.contract.spec import RANK_FOLDER_VARIABLE
from engines.host import processes
from engines.host.shared_memory import SharedMemory
from engines.logs import get_logger

logger = get_logger("ranks")
GRACE_S = 5.0  # for a rank whose guardian was killed, to end what is below it
MOST_PATIENCE_S = 30.0  # for those that were killed to be gone
LONGEST_PAUSE_S = 0.25
OWN_COMMANDS = (
    "engines guard",
    "engines inspect",
    "engines mps",
    "nvidia-cuda-mps",
    "phalanx-mps",
    "phalanx-guardian",
    "phalanx-gateway",
    "phalanx serve",
)
_elders: set[int] = set()  # children that were there before the gateway was


def adopt_orphans() -> None:
    """From now on orphans below this process become its children. Those that it has already are none of its business:
    a shell that became the gateway by exec may have started them."""
    _elders.update(child.pid for child in psutil.Process().children())
    processes.become_subreaper()


async def clear_strays(own: Container[int], runtime: Path, shared_memory: SharedMemory) -> None:
    """Returns once no orphan of a rank is left: after a moment of grace they are killed.

    `own` are children that are none, and `runtime` is the folder that the ranks' private folders are in.
    """
    await asyncio.to_thread(_clear, own, runtime, shared_memory)


def _clear(own: Container[int], runtime: Path, shared_memory: SharedMemory) -> None:
    deadline = time.monotonic() + GRACE_S
    last = deadline + MOST_PATIENCE_S
    orphans = _Orphans(own, runtime)
    pause_s, trouble = 0.02, None
    while time.monotonic() < last:
        try:
            if not orphans.look():
                break
            _attend(orphans.living, shared_memory, is_overdue=time.monotonic() > deadline)
        except OSError as error:  # no file descriptor is left: who is an orphan cannot be told just now
            if trouble is None:
                logger.warning("strays_unreadable", reason=str(error))
            trouble = error
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    if orphans.living:  # the kernel holds on to them, a hung GPU's for one: the group has to try without
        logger.warning("strays_left", processes=[process.pid for process in orphans.living])
    shared_memory.remove()


def _attend(orphans: Sequence[psutil.Process], shared_memory: SharedMemory, *, is_overdue: bool) -> None:
    """Notes the shared memory of orphans and what is below them; kills them when they have had their time."""
    family = [process for stray in orphans for process in (stray, *processes.descendants(stray.pid))]
    shared_memory.look(process.pid for process in family)
    if is_overdue and family:
        logger.warning("strays_killed", processes=[processes.title(process) for process in family])
        workers = [process for process in family if not processes.is_resource_tracker(process)]
        for process in workers or family:  # trackers last: they free the shared memory
            processes.kill(process)


class _Orphans:
    """Children of this process that it did not start, and that a rank did."""

    def __init__(self, own: Container[int], runtime: Path) -> None:
        self._own = own
        self._mark = f"{RANK_FOLDER_VARIABLE}={runtime}/".encode()
        self._dead: set[int] = set()
        self.living: list[psutil.Process] = []

    def look(self) -> bool:
        """Whether there is any. Dead ones are collected at the second look: by then each child of our own is known."""
        self.living, dead = [], set()
        for child in psutil.Process().children():
            if (
                child.pid in self._own
                or child.pid in _elders
                or any(command in processes.title(child) for command in OWN_COMMANDS)
            ):
                continue
            with contextlib.suppress(psutil.Error, ChildProcessError):
                if child.status() != psutil.STATUS_ZOMBIE:
                    if self._is_of_a_rank(child.pid):
                        self.living.append(child)
                elif child.pid not in self._dead or os.waitpid(child.pid, os.WNOHANG) == (0, 0):
                    dead.add(child.pid)  # or threads of it are still dying
        self._dead |= dead
        return bool(self.living or dead)

    def _is_of_a_rank(self, pid: int) -> bool:
        """By what every process inherits that is started below a guardian. One that has set its title shows nothing of
        it any more: the title is written over it."""
        try:
            shown = Path(f"/proc/{pid}/environ").read_bytes()
        except PermissionError:  # another user's
            return False
        except (FileNotFoundError, ProcessLookupError):  # it is about to be gone: one more look will tell
            return True
        return self._mark in shown or not shown.strip(b"\0")
