"""Which CPU cores the ranks' workers run on, where there is no GPU.

vLLM binds a worker's OpenMP threads to the cores it is told. Two ranks bound to the same cores, or threads that
outnumber the CPU time a container may use, wait for each other in every step.
"""

import math
import os
import platform
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

TOPOLOGY = Path("/sys/devices/system/cpu")
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
CPU_INFO = Path("/proc/cpuinfo")


def cpu_shares(cores: Sequence[int], dp_size: int, tp_size: int) -> list[str]:
    """Each rank's cores in the syntax of VLLM_CPU_OMP_THREADS_BIND: ranges, workers separated by '|'.

    Neighbouring cores stay together. Where there are fewer cores than workers, workers share them in turn.
    """
    workers = dp_size * tp_size
    if len(cores) < workers:
        portions = [[cores[worker % len(cores)]] for worker in range(workers)]
    else:
        edges = [worker * len(cores) // workers for worker in range(workers + 1)]
        portions = [list(cores[start:end]) for start, end in pairwise(edges)]
    written = [_ranges(portion) for portion in portions]
    return ["|".join(written[rank * tp_size : (rank + 1) * tp_size]) for rank in range(dp_size)]


def cpu_name(file: Path = CPU_INFO) -> str:
    """What the processor calls itself; what kind it is where it does not say."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", file.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def _ranges(cores: Sequence[int]) -> str:
    """0, 1, 2, 5 as 0-2,5."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def usable_cores(workers: int) -> list[int]:
    """The cores for so many workers: allowed to this process, and no more than its container has CPU time for.

    One of each physical core's hyperthreads, as vLLM chooses, unless that leaves a worker without a core.
    """
    allowed = sorted(os.sched_getaffinity(0))
    first_threads: dict[tuple[int, int], int] = {}
    for core in allowed:
        first_threads.setdefault(_physical(core), core)
    physical = [core for _, core in sorted(first_threads.items())]
    cores = physical if len(physical) >= workers else allowed
    return cores[: max(1, min(len(cores), _quota(CPU_QUOTA)))]


def _physical(core: int) -> tuple[int, int]:
    """The socket and the physical core that a logical core is a thread of; itself where the kernel does not say."""
    folder = TOPOLOGY / f"cpu{core}" / "topology"
    try:
        return int((folder / "physical_package_id").read_text()), int((folder / "core_id").read_text())
    except (OSError, ValueError):
        return 0, core


def _quota(file: Path) -> int:
    """How many cores' time the container may use, rounded up, as in `docker run --cpus`."""
    try:
        quota, period = file.read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return os.cpu_count() or 1
