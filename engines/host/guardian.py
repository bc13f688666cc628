"""The small process around a rank: it outlives the rank, and sees to it that nothing of the rank outlives it.

Two things end a rank from outside: the gateway closes the guardian's standard input (or dies, which closes it, too),
or the rank dies. Either way the guardian kills everything below it, frees what it held, and exits with the rank's
exit code. That its exit means "all gone" is what the gateway relies on before it starts another incarnation. Should
the guardian itself be killed, the rank notices on its own standard input and does the same (engines/rank/control.py).
"""

import contextlib
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import setproctitle

from engines.contract.spec import FAREWELL, RankSpec, read_spec
from engines.host import processes, torchrun
from engines.host.guarding import clear, exit_code, hold, signal_pipe
from engines.host.rank_log import RankLog
from engines.host.shared_memory import SharedMemory

IPC = "ipc://"
SCAN_INTERVAL_S = 2.0  # how often the rank's shared memory is looked up: it must be known before the rank dies
CHUNK_BYTES = 65536
CHUNKS_AT_ONCE = 64  # between two looks at what else happens: a rank may print faster than a disk takes it


def main(spec_path: str) -> int:
    """Runs one rank to its end. Returns the rank's exit code, 128 + n when signal n ended it; 0 if its spec is gone."""
    # Ctrl-C is for the gateway alone. A group and not a session: Linux schedules each session as one (sched_autogroup),
    # and vLLM's engine core, which spins and yields while it waits, would then yield to nobody but its own rank.
    os.setpgid(0, 0)
    try:
        spec = read_spec(Path(spec_path))
    except FileNotFoundError:  # the gateway was killed just now, and another guardian has removed its folder
        return 0
    setproctitle.setproctitle(spec.guardian_title)
    processes.become_subreaper()
    command = [sys.executable, "-P", "-m", "engines", "rank", spec_path]
    return Guardian(spec, torchrun.torchrun_command(spec, command) if spec.is_launched else command).run()


class Guardian:
    """Starts the rank, keeps its log, and cleans up behind it."""

    def __init__(self, spec: RankSpec, command: Sequence[str]) -> None:
        self._spec = spec
        self._command = command
        self._log = RankLog(Path(spec.log_file))
        self._shared_memory = SharedMemory()
        self._lock = hold(Path(spec.directory))
        self._gateway = os.getppid()
        self._farewell: bytes | None = None  # what came from the gateway in the end; nothing when it died

    def run(self) -> int:
        """Watches until the rank or the gateway is gone, then cleans up."""
        asked_to_end = signal_pipe()
        output, rank_output = os.pipe()
        rank_lifeline, lifeline = os.pipe()  # the rank holds the read end: it reads EOF when this process is gone
        os.set_blocking(output, False)
        try:
            rank = subprocess.Popen(
                self._command, stdin=rank_lifeline, stdout=rank_output, stderr=subprocess.STDOUT, process_group=0
            )
            os.close(rank_output)
            os.close(rank_lifeline)
            try:
                self._watch(rank, output, asked_to_end)
            finally:
                self._scan()
                rank.kill()  # does nothing to a rank that has ended
                rank.wait()
        finally:
            processes.kill_workers(os.getpid(), self._shared_memory)
            processes.await_trackers(os.getpid(), self._spec.kill_grace_s)
            self._drain(output)
            self._log.close()
            os.close(lifeline)
            self._remove_leftovers()
        return exit_code(rank.returncode)

    def _watch(self, rank: "subprocess.Popen[bytes]", output: int, asked_to_end: int) -> None:
        """Returns when the rank has ended, the gateway is gone, or this process was asked to end."""
        pidfd = os.pidfd_open(rank.pid)
        poller = select.poll()
        for fd in (0, output, pidfd, asked_to_end):
            poller.register(fd, select.POLLIN)
        next_scan = time.monotonic()
        try:
            while True:
                ready = {fd for fd, _ in poller.poll(SCAN_INTERVAL_S * 1000)}
                if output in ready and not self._drain(output, CHUNKS_AT_ONCE):
                    poller.unregister(output)
                if 0 in ready:
                    self._farewell = os.read(0, len(FAREWELL))
                if pidfd in ready or asked_to_end in ready or 0 in ready:
                    return
                if time.monotonic() >= next_scan:
                    self._scan()
                    next_scan = time.monotonic() + SCAN_INTERVAL_S
        finally:
            os.close(pidfd)

    def _scan(self) -> None:
        with contextlib.suppress(OSError):  # no file descriptor is left: the next scan may find one
            self._shared_memory.look(process.pid for process in processes.descendants(os.getpid()))

    def _drain(self, output: int, chunks: int = sys.maxsize) -> bool:
        """Moves what the rank printed into its log. False when nobody can print there any more."""
        for _ in range(chunks):
            try:
                chunk = os.read(output, CHUNK_BYTES)
            except BlockingIOError:
                return True
            if not chunk:
                return False
            self._log.write(chunk)
        return True

    def _remove_leftovers(self) -> None:
        """The incarnation's folder and shared memory; and what a gateway that is no more had for this and others."""
        directory = Path(self._spec.directory)
        shutil.rmtree(directory, ignore_errors=True)
        self._shared_memory.remove()
        torchrun.remove_shared_memory(self._spec)
        is_alone = self._farewell == b"" or os.getppid() != self._gateway  # it may have died since it said farewell
        if is_alone:
            if self._spec.endpoint.startswith(IPC):
                Path(self._spec.endpoint.removeprefix(IPC)).unlink(missing_ok=True)
            clear(directory.parent)
