"""That a group's GPUs are free again before it is started again: a dead process's memory comes back a moment later."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from engines.logs import get_logger

logger = get_logger("ranks")
TOLERANCE_BYTES = 512 * 1024 * 1024  # of other programs that come and go
TIMEOUT_S = 30.0  # then the engine has to see for itself what it gets
POLL_S = 0.2


class GpuMemory:
    """The memory in use on a group's GPUs: before its first life, and between two lives."""

    def __init__(self, gpus: Sequence[str]) -> None:
        self._gpus = gpus
        self._baseline: list[int] = []

    async def take_baseline(self) -> None:
        """What is in use before anything was started."""
        self._baseline = await self._look()

    async def wait_free(self) -> None:
        """Returns once no more is in use than before, or after a while with a warning."""
        deadline = time.monotonic() + TIMEOUT_S
        while self._baseline:
            used = await self._look()
            if not used:
                return
            excess = [now - before for now, before in zip(used, self._baseline, strict=True)]
            if max(excess) <= TOLERANCE_BYTES:
                return
            if time.monotonic() > deadline:
                mib = {gpu: extra >> 20 for gpu, extra in zip(self._gpus, excess, strict=True)}
                logger.warning("gpu_memory_in_use", excess_mib=mib, waited_s=TIMEOUT_S)
                return
            await asyncio.sleep(POLL_S)

    async def _look(self) -> list[int]:
        """Memory in use on each GPU; nothing where there is none, or NVML does not say: the engine has to see then."""
        if not self._gpus:
            return []
        try:
            return await asyncio.to_thread(used_bytes, self._gpus)
        except OSError as error:
            logger.warning("gpu_memory_unreadable", reason=str(error))
            return []


def used_bytes(gpus: Sequence[str]) -> list[int]:
    """Memory in use on each GPU, named as CUDA_VISIBLE_DEVICES names them. Raises OSError when NVML does not say."""
    import pynvml  # only where there are GPUs

    try:
        pynvml.nvmlInit()
        try:
            return [int(pynvml.nvmlDeviceGetMemoryInfo(_handle(pynvml, gpu)).used) for gpu in gpus]
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise OSError(str(error)) from error


def _handle(nvml: Any, gpu: str) -> Any:  # Any: the module pynvml, which is untyped
    return nvml.nvmlDeviceGetHandleByIndex(int(gpu)) if gpu.isdecimal() else nvml.nvmlDeviceGetHandleByUUID(gpu)
