"""The processes that a measurement starts, and what processes cost. Whatever was started is gone after `stop`."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from engines.host.processes import is_resource_tracker

ROOT = Path(__file__).resolve().parents[1]
LOG_TAIL_BYTES = 3000
MIB = 2**20
POLL_S = 0.05


class MeasurementFailed(Exception):
    """There is no figure. The message says why, with the end of the log of whoever failed."""


@dataclass(frozen=True)
class Cost:
    """What a process has used so far, and what it holds now."""

    cpu_s: float
    rss_mib: float
    open_files: int
    threads: int


def cost_of(pid: int) -> Cost:
    """Of this process alone."""
    process = psutil.Process(pid)
    times = process.cpu_times()
    return Cost(times.user + times.system, process.memory_info().rss / MIB, process.num_fds(), process.num_threads())


def peak_bytes(pid: int) -> int:
    """The most memory that a process ever had (VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) * 1024


def folder_bytes(folder: Path) -> int:
    """What its files take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def tree_cpu_s(pid: int) -> float:
    """CPU time so far of a process and of everything below it."""
    total = 0.0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepting_pid(pid: int, port: int) -> int:
    """Which of a process and those below it has accepted a connection to the port that is still open. A socket that
    listens may be held by several. Raises MeasurementFailed."""
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(found.laddr.port == port and found.raddr for found in process.net_connections("tcp")):
                return process.pid
    raise MeasurementFailed(f"no process below {pid} has a connection on port {port}")


class Child:
    """A process whose stderr goes to a log file; so does stdout unless one talks to it.

    In a process group of its own, and in the session of all others: Linux schedules each session as one
    (sched_autogroup), so that ranks in several sessions would be slower than ranks in one.
    """

    def __init__(self, command: Sequence[str], log: Path, variables: Mapping[str, str], talks: bool = False) -> None:
        self.log = log
        path = os.pathsep.join(part for part in (str(ROOT), variables.get("PYTHONPATH", "")) if part)
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else output,
                stderr=output,
                env={**variables, "PYTHONPATH": path},
                process_group=0,
            )

    @property
    def pid(self) -> int:
        """The process started, whatever it has below it."""
        return self._process.pid

    def check_alive(self) -> None:
        """Raises MeasurementFailed when it has ended."""
        if self._process.poll() is not None:
            raise self.failure(f"it ended with exit code {self._process.returncode}")

    def failure(self, reason: str) -> MeasurementFailed:
        """The reason, with the end of the log."""
        tail = self.log.read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", "replace")
        return MeasurementFailed(f"{self.log.stem}: {reason}\n--- the end of {self.log}\n{tail}")

    def tell(self, line: str) -> None:
        """Writes a line to its stdin."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self.failure("it hears nothing any more") from None

    def hear(self, timeout_s: float) -> str:
        """The next line of its stdout; it says one for each that it is told."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        if not ready:
            raise self.failure(f"it said nothing for {timeout_s:g} s")
        line = self._process.stdout.readline().decode().strip()
        if not line:
            raise self.failure("it ended")
        return line

    def stop(self, grace_s: float) -> None:
        """SIGTERM, and SIGKILL for what is left after `grace_s` (0: at once), everything below it included."""
        below = psutil.Process(self.pid).children(recursive=True) if self._process.poll() is None else []
        if grace_s and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        trackers = [process for process in below if is_resource_tracker(process)]
        _kill(process for process in below if process not in trackers)
        self._process.kill()
        self._process.wait()
        _, left = psutil.wait_procs(below, timeout=10)  # trackers remove what the others left in /dev/shm, and end
        _kill(left)


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Waits for the condition; whether it came."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def wait_ready(child: Child, is_ready: Callable[[], bool], timeout_s: float) -> None:
    """Waits until the child is ready. Raises MeasurementFailed when it ends before, or takes too long."""

    def is_ready_or_gone() -> bool:
        child.check_alive()
        return is_ready()

    if not wait_until(is_ready_or_gone, timeout_s):
        raise child.failure(f"it was not ready after {timeout_s:g} s")
