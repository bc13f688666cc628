"""What a killed guardian leaves behind: its rank ends by itself, and what does not is ended here.

The gateway is a subreaper, so orphans become its children. They are told from what it starts itself by their titles.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Container

import psutil

from app.logs import get_logger
from engines import processes
from engines.shared_memory import SharedMemory

logger = get_logger("ranks")
GRACE_S = 5.0  # for a rank whose guardian was killed, to end what is below it
MOST_PATIENCE_S = 30.0  # for those that were killed to be gone
LONGEST_PAUSE_S = 0.25
OWN_COMMANDS = ("engines guard", "engines inspect", "phalanx-guardian", "phalanx-gateway", "phalanx serve")


def adopt_orphans() -> None:
    """From now on orphans below this process become its children."""
    processes.become_subreaper()


async def clear_strays(own: Container[int], shared_memory: SharedMemory) -> None:
    """Returns once no orphan is left: after a moment of grace they are killed. `own` are children that are none."""
    await asyncio.to_thread(_clear, own, shared_memory)


def _clear(own: Container[int], shared_memory: SharedMemory) -> None:
    deadline = time.monotonic() + GRACE_S
    last = deadline + MOST_PATIENCE_S
    orphans = _Orphans(own)
    pause_s = 0.02
    while orphans.look() and time.monotonic() < last:
        family = [process for stray in orphans.living for process in (stray, *processes.descendants(stray.pid))]
        shared_memory.look(process.pid for process in family)
        if time.monotonic() > deadline and family:
            logger.warning("strays_killed", processes=[processes.title(process) for process in family])
            workers = [process for process in family if not processes.is_resource_tracker(process)]
            for process in workers or family:  # trackers last: they free the shared memory
                processes.kill(process)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    if orphans.living:  # the kernel holds on to them, a hung GPU's for one: the group has to try without
        logger.warning("strays_left", processes=[processes.title(process) for process in orphans.living])
    shared_memory.remove()


class _Orphans:
    """Children of this process that it did not start."""

    def __init__(self, own: Container[int]) -> None:
        self._own = own
        self._dead: set[int] = set()
        self.living: list[psutil.Process] = []

    def look(self) -> bool:
        """Whether there is any. Dead ones are collected at the second look: by then each child of our own is known."""
        self.living, dead = [], set()
        for child in psutil.Process().children():
            if child.pid in self._own or any(command in processes.title(child) for command in OWN_COMMANDS):
                continue
            with contextlib.suppress(psutil.Error, ChildProcessError):
                if child.status() != psutil.STATUS_ZOMBIE:
                    self.living.append(child)
                elif child.pid in self._dead:
                    os.waitpid(child.pid, os.WNOHANG)
                else:
                    dead.add(child.pid)
        self._dead |= dead
        return bool(self.living or dead)
