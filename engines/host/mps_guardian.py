"""The small process around MPS's control daemon, as a rank has one: it ends the daemon when the gateway is gone.

The daemon starts servers, which are clients' way to their GPU; what they have in common is that all are below this
process, and are killed with it.
"""

import contextlib
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

import setproctitle

from engines.contract.spec import FAREWELL
from engines.host import processes
from engines.host.guarding import clear, exit_code, hold, signal_pipe
from engines.host.mps import CONTROL, ask
from engines.host.shared_memory import SharedMemory

TITLE = "phalanx-mps"
QUIT_TIMEOUT_S = 3.0  # by then its clients are dead or dying


def main(folder: Path) -> int:
    """Runs the daemon until it ends or the gateway is gone. Returns its exit code."""
    os.setpgid(0, 0)  # Ctrl-C is for the gateway alone
    setproctitle.setproctitle(TITLE)
    processes.become_subreaper()
    lock = hold(folder)
    gateway, farewell = os.getppid(), None
    asked_to_end = signal_pipe()
    try:
        daemon = subprocess.Popen([CONTROL, "-f"], stdin=subprocess.DEVNULL, process_group=0)
    except FileNotFoundError:
        sys.stderr.write(f"phalanx: {CONTROL} is not on the PATH\n")
        return 1
    pidfd = os.pidfd_open(daemon.pid)
    try:
        ready, _, _ = select.select([0, pidfd, asked_to_end], [], [])
        if 0 in ready:
            farewell = os.read(0, len(FAREWELL))
        if daemon.poll() is None:
            _quit()
    finally:
        processes.kill_workers(os.getpid(), SharedMemory())
        daemon.wait()
        is_alone = farewell == b"" or os.getppid() != gateway  # a gateway that lives reads the log first
        if is_alone:
            shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)
        if is_alone:
            clear(folder.parent)
    return exit_code(daemon.returncode)


def _quit() -> None:
    """Asks it, so that what it holds of the GPUs is given back in order. One that does not answer is killed."""
    with contextlib.suppress(OSError):
        ask(b"quit -t 1\n", QUIT_TIMEOUT_S)
