"""The processes below a rank, and how to end all of them without leaving anything behind; and the memory for them.

vLLM starts an engine core, workers and a coordinator, sets neither a process group nor a death signal for them, and
Python's resource trackers below them own the shared memory. So everything is found by descent and killed by pidfd,
the trackers last: killed with the rest, they would leave hundreds of MiB in /dev/shm.
"""

import contextlib
import ctypes
import os
import signal
import time

import psutil

from engines.host.shared_memory import SharedMemory

PR_SET_CHILD_SUBREAPER = 36
LONGEST_PAUSE_S = 0.25  # between two looks: a process that the kernel holds on to may take its time


def become_subreaper() -> None:
    """Orphans below this process become its children, not init's. Raises OSError when the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(errno)}")


def free_memory() -> int:
    """Bytes that processes of this machine could still have without swapping."""
    return int(psutil.virtual_memory().available)


def descendants(pid: int) -> list[psutil.Process]:
    """All living processes below `pid`. A zombie is one only while threads of it run.

    Raises OSError, as the others here do, when it cannot look: no file descriptor is left.
    """
    try:
        below = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
    return [process for process in below if _is_alive(process)]


def resident_bytes(pid: int) -> int:
    """Memory of a process and of all below it (RSS: what they share counts for each)."""
    total = 0
    for process in [*_itself(pid), *descendants(pid)]:
        with contextlib.suppress(psutil.Error):
            total += int(process.memory_info().rss)
    return total


def _itself(pid: int) -> list[psutil.Process]:
    try:
        return [psutil.Process(pid)]
    except psutil.Error:
        return []


def is_resource_tracker(process: psutil.Process) -> bool:
    """Whether this is a tracker of Python's multiprocessing, which frees shared memory when its users are gone."""
    try:
        return any("resource_tracker" in word for word in process.cmdline())
    except psutil.Error:
        return False


def title(process: psutil.Process) -> str:
    """What `ps` shows for the process, shortened."""
    try:
        return " ".join(process.cmdline()).strip()[:80] or process.name()
    except psutil.Error:
        return "?"


def kill_workers(pid: int, shared_memory: SharedMemory) -> None:
    """Kills everything below `pid` but resource trackers, and notes in `shared_memory` what it has mapped."""
    pause_s = 0.01
    while (workers := _workers(pid)) != []:
        shared_memory.look(process.pid for process in workers or ())
        for process in workers or ():
            kill(process)
        time.sleep(pause_s)
        _reap()
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _workers(pid: int) -> list[psutil.Process] | None:
    """Everything below `pid` but resource trackers; None when that cannot be told just now."""
    try:
        return [process for process in descendants(pid) if not is_resource_tracker(process)]
    except OSError:
        return None


def await_trackers(pid: int, grace_s: float) -> None:
    """Waits until nothing is left below `pid`, which is the calling process: not even a zombie.

    Trackers end by themselves once their users are gone, and free what these left. What has not ended after
    `grace_s` is killed.
    """
    deadline = time.monotonic() + grace_s
    pause_s = 0.01
    while _reap():
        if time.monotonic() >= deadline:
            with contextlib.suppress(OSError):  # the next look may succeed
                for process in descendants(pid):
                    kill(process)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def kill(process: psutil.Process) -> None:
    """Kills a process through a pidfd, so that no other with its number is hit. One that is gone is no error."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        return
    try:
        if process.is_running():  # it, and not another one that has its number by now
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    finally:
        os.close(pidfd)


def _is_alive(process: psutil.Process) -> bool:
    try:
        # One whose first thread has ended shows as a zombie while the others run: they hold its memory, a GPU's too.
        return process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1
    except psutil.Error:
        return False


def _reap() -> bool:
    """Collects dead children, adopted ones too: a zombie still counts as a process to whoever looks. Returns whether
    any child is left; orphans below a subreaper become its children, so that without one nothing is left at all."""
    with contextlib.suppress(ChildProcessError):  # there is none at all
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
        return True
    return False
