"""How torchrun is called for a rank, and the shared memory that its workers have."""

import contextlib
import hashlib
import sys
from pathlib import Path

from engines.contract.spec import RankSpec
from engines.host import ports
from engines.host.shared_memory import FOLDER


def torchrun_command(spec: RankSpec, worker: list[str]) -> list[str]:
    """torchrun with the rank's workers below it. The ranks of a lock-step group are nodes of one job: each has its
    own agent, below its own guardian, and all their workers meet.

    Raises NoFreePorts.
    """
    meeting = spec.lockstep
    if meeting is None:
        size, place, host, port = 1, 0, ports.LOOPBACK, ports.free_port_run(1)
    else:
        size, place, host, port = spec.dp_size, spec.rank, meeting.host, meeting.master_port
    return [
        *(sys.executable, "-P", "-m", "torch.distributed.run"),
        *("--nnodes", str(size), "--node-rank", str(place), "--nproc-per-node", str(spec.tp_size)),
        *("--rdzv-backend", "static", "--master-addr", host, "--master-port", str(port)),
        *("--log-dir", str(Path(spec.directory) / "torchrun")),  # it would leave an empty folder in /tmp
        *("--no-python", *worker),
    ]


def shared_memory_prefix(spec: RankSpec) -> str:
    """What the names of the workers' shared memory begin with: the same in all workers of this life of the rank."""
    return f"phalanx-{hashlib.blake2b(spec.directory.encode(), digest_size=6).hexdigest()}-"


def remove_shared_memory(spec: RankSpec) -> None:
    """Removes the files of that name. Who has mapped one keeps it. Does nothing for other ranks."""
    if spec.is_launched and FOLDER.is_dir():
        for file in FOLDER.glob(shared_memory_prefix(spec) + "*"):
            with contextlib.suppress(OSError):
                file.unlink()
