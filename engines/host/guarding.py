"""What guardians have in common: they outlive a gateway that was killed, and remove what it had."""

import contextlib
import fcntl
import os
import shutil
import signal
from pathlib import Path


def hold(folder: Path) -> int | None:
    """Locks an incarnation's folder, for as long as this process lives: whoever clears up leaves it alone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return None
    return descriptor


def clear(runtime: Path) -> None:
    """Removes what lies in a dead gateway's folder and no guardian holds; the last guardian removes the folder."""
    with contextlib.suppress(OSError):
        for folder in [entry for entry in runtime.iterdir() if entry.is_dir()]:
            lock = hold(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                folder.with_name(folder.name + ".sock").unlink(missing_ok=True)
                os.close(lock)
        if not any(entry.is_dir() for entry in runtime.iterdir()):
            shutil.rmtree(runtime, ignore_errors=True)


def exit_code(code: int) -> int:
    """A return code of subprocess as a shell would give it: 128 + n when signal n ended the process."""
    return code if code >= 0 else 128 - code


def signal_pipe() -> int:
    """A descriptor that becomes readable when SIGTERM, SIGINT or SIGHUP arrives.

    The kernel sends SIGHUP to a process that was stopped when its gateway died; it would end, and leave its rank.
    """
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return readable
