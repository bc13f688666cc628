"""Names for the shared memory of vLLM's all-reduce on a CPU that no other group of workers has.

vLLM derives them from the address at which its workers met. Under torchrun that is "env://" for everybody: two groups
on a machine would work in each other's memory, and what a killed one left would keep the next from starting.
"""

from typing import Any

MARK = "named_by_phalanx"


def make_unique(prefix: str) -> None:
    """Lets all groups that this process makes from now on have names that begin with `prefix`."""
    from vllm.distributed.device_communicators.cpu_communicator import _CPUSHMDistributed

    original = _CPUSHMDistributed.make_group_name
    if hasattr(original, MARK):
        return

    def make_group_name(communicator: Any) -> str:  # Any: vLLM's CpuCommunicator
        return prefix + str(original(communicator)).lstrip("/")

    setattr(make_group_name, MARK, True)
    _CPUSHMDistributed.make_group_name = staticmethod(make_group_name)
