"""Which of torchrun's workers this process is, and the cores that its threads may run on.

torchrun sets OMP_NUM_THREADS to 1, and vLLM binds threads only of workers that it starts itself. So each worker takes
its part of what VLLM_CPU_OMP_THREADS_BIND says, as vLLM's own executor would have given it.
"""

import os
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass

from engines.contract.spec import RankSpec

LOCAL_RANK, THREADS, BINDING = "LOCAL_RANK", "OMP_NUM_THREADS", "VLLM_CPU_OMP_THREADS_BIND"


@dataclass(frozen=True)
class Launch:
    """This process among the workers of its rank."""

    number: int  # within the rank; 0 leads
    cores: tuple[int, ...] = ()  # of the thread that steps, and of those that it starts; empty: any

    @property
    def leads(self) -> bool:
        """Whether it is the rank, which has the control channel and tells the other workers what to do."""
        return self.number == 0

    def bind_thread(self) -> None:
        """Binds the calling thread. Threads that it starts later, OpenMP's too, inherit that."""
        if self.cores:
            os.sched_setaffinity(0, self.cores)


def read_launch(spec: RankSpec, environ: MutableMapping[str, str]) -> Launch:
    """What torchrun told this process. Chooses the number of its threads: call it before torch is imported."""
    number = int(environ[LOCAL_RANK])
    if spec.device != "cpu":
        return Launch(number)
    cores = cores_of(number, environ.get(BINDING, "auto"), spec.tp_size, sorted(os.sched_getaffinity(0)))
    if cores:
        environ[THREADS] = str(len(cores))
    return Launch(number, cores)


def cores_of(number: int, binding: str, workers: int, allowed: Sequence[int]) -> tuple[int, ...]:
    """A worker's cores, by vLLM's syntax: ranges, workers separated by '|'. With "auto" the workers divide them."""
    if binding == "nobind":
        return ()
    if binding != "auto":
        return _parsed(binding.split("|")[number])
    if len(allowed) < workers:
        return (allowed[number % len(allowed)],)
    return tuple(allowed[number * len(allowed) // workers : (number + 1) * len(allowed) // workers])


def _parsed(ranges: str) -> tuple[int, ...]:
    """0-2,5 as 0, 1, 2, 5."""
    ends = [part.partition("-") for part in ranges.split(",")]
    return tuple(core for first, _, last in ends for core in range(int(first), int(last or first) + 1))
