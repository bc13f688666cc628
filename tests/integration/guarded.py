"""A guardian around a rank that is a few lines of Python, for the tests beside this file."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from engines.contract.spec import FAREWELL, EngineKind, GroupKind, RankSpec, write_spec
from tests.service import until

DEADLINE_S = 30.0  # for anything that takes a moment on an idle machine
SHARED_MEMORY = Path("/dev/shm")

GUARD = """
import sys
from pathlib import Path
from engines.host import processes
from engines.host.guardian import Guardian
from engines.contract.spec import read_spec
processes.become_subreaper()
sys.exit(Guardian(read_spec(Path(sys.argv[1])), sys.argv[2:]).run())
"""

# What vLLM does, and worse: shared memory in use, shared memory that only the resource tracker knows of, and a
# process that ignores SIGTERM and has left its parent, its group and its session.
FAMILY = """
import os, signal, sys, time
from multiprocessing.shared_memory import SharedMemory

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

say("rank", os.getpid())
signal.signal(signal.SIGTERM, signal.SIG_IGN)
used, closed = SharedMemory(create=True, size=4096), SharedMemory(create=True, size=4096)
say("shm", used.name)
say("shm", closed.name)
closed.close()
if os.fork() == 0:
    used.buf[0] = 1
    own = SharedMemory(create=True, size=4096)
    say("shm", own.name)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            say("orphan", os.getpid())
            time.sleep(600)
        os._exit(0)
    os.wait()
    say("complete")
    time.sleep(600)
while not os.path.exists("end"):
    time.sleep(0.01)
os._exit(7)
"""


def make_spec(folder: Path, **fields: Any) -> RankSpec:
    """A spec whose private folder and socket lie below `folder`, as they do below the gateway's."""
    values: dict[str, Any] = {
        "rank": 0,
        "incarnation": 1,
        "dp_size": 1,
        "tp_size": 1,
        "engine": EngineKind.SIMULATED,
        "group_kind": GroupKind.REPLICAS,
        "expert_parallel": False,
        "model": "played",
        "endpoint": f"ipc://{folder}/runtime/0.1.sock",
        "directory": str(folder / "runtime" / "0.1"),
        "log_file": str(folder / "logs" / "rank-0.log"),
        "device": "cpu",
        "kill_grace_s": 30.0,  # on an idle machine, a resource tracker needs a hundredth
    }
    return RankSpec(**values | fields)


class Guarded:
    """A guardian and its rank."""

    def __init__(self, folder: Path, rank: str, program: str = sys.executable, **fields: Any) -> None:
        self.folder = folder
        self.spec = make_spec(folder, **fields)
        self.directory = Path(self.spec.directory)
        self.directory.mkdir(parents=True)
        spec_path = self.directory / "rank.json"
        write_spec(self.spec, spec_path)
        self.guardian = subprocess.Popen(
            [sys.executable, "-c", GUARD, str(spec_path), program, "-c", rank],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )

    @property
    def log(self) -> str:
        """What the rank has printed."""
        file = Path(self.spec.log_file)
        return file.read_text(errors="replace") if file.exists() else ""

    def said(self, word: str) -> list[str]:
        """The second words of the log's lines that begin with `word`."""
        lines = [line.split() for line in self.log.splitlines()]
        return [line[1] for line in lines if line[:1] == [word] and len(line) > 1]

    def wait_complete(self) -> None:
        """Until the whole family is there."""
        until(lambda: "complete" in self.log and self.said("orphan"), "the rank is not complete")
        assert all((SHARED_MEMORY / name).exists() for name in self.said("shm"))

    def cut(self, farewell: bytes = FAREWELL) -> None:
        """What the gateway does; without a farewell, its death."""
        assert self.guardian.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # the guardian has ended; it has been cut before
            self.guardian.stdin.write(farewell)
            self.guardian.stdin.close()

    def rank_pid(self) -> int:
        """The rank's, once it runs."""
        return int(until(lambda: self.said("rank"), "the rank does not run")[0])

    def wait(self) -> int:
        """The guardian's exit code."""
        return self.guardian.wait(DEADLINE_S)

    def processes(self) -> list[psutil.Process]:
        """All that stand in the folder, wherever they were reparented to."""
        return [process for process in psutil.process_iter() if folder_of(process) == str(self.folder)]

    def leftovers(self) -> list[str]:
        """Processes and shared memory of the family, and the private folder."""
        shared_memory = [name for name in self.said("shm") if (SHARED_MEMORY / name).exists()]
        folders = [str(self.directory)] if self.directory.exists() else []
        return [*map(str, self.processes()), *shared_memory, *folders]


@contextmanager
def guarded(folder: Path, rank: str = FAMILY, **fields: Any) -> Iterator[Guarded]:
    """A guardian that is killed in the end, with all that is left, however the test went."""
    family = Guarded(folder, rank, **fields)
    try:
        yield family
    finally:
        for process in family.processes():
            process.kill()
        family.cut()
        family.guardian.wait()
        for name in family.said("shm"):
            (SHARED_MEMORY / name).unlink(missing_ok=True)


def folder_of(process: psutil.Process) -> str | None:
    """Where a process stands; None when it is gone, a zombie, or not ours to look at."""
    try:
        return process.cwd()
    except psutil.Error:
        return None
