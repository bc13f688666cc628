"""This machine as a host of ranks: what the gateway's local host and a node agent have in common."""

import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from engines.contract.spec import LockstepAddress, RankSpec, RankVariables
from engines.host.environment import environment
from engines.host.gpu_memory import GpuMemory
from engines.host.mps import Mps
from engines.host.ports import LOOPBACK, free_port_run
from engines.host.pulse import PulseReader
from engines.host.rank_log import LogPart
from engines.host.rank_process import RankProcess
from engines.host.runtime import Runtime
from engines.host.shared_memory import SharedMemory
from engines.host.strays import clear_strays

LOCKSTEP_PORTS = 10  # vLLM's groups take consecutive ports from the master port on


class Machine:
    """Starts ranks that inherit `environ`, log to files in `log_dir`, and have private folders below `socket_dir`.

    `address` is where other nodes find this one; the loopback interface's where there are none.
    """

    def __init__(self, environ: Mapping[str, str], log_dir: Path, socket_dir: Path, address: str = LOOPBACK) -> None:
        self.name = socket.gethostname()
        self._environ = environ
        self._log_dir = log_dir
        self._socket_dir = socket_dir
        self._address = address
        self._runtime: Runtime | None = None  # once there are ranks
        self._memory: dict[tuple[str, ...], GpuMemory] = {}
        self._mps: Mps | None = None  # once ranks share a GPU

    def open(self) -> None:
        """Makes the folder of the ranks' sockets, or makes it anew if somebody has removed it. Raises OSError."""
        if self._runtime is None:
            self._runtime = Runtime(self._socket_dir)
        self._runtime.ensure()

    def close(self) -> None:
        """Removes that folder. May be called twice."""
        if self._mps is not None:
            self._mps.close()
        if self._runtime is not None:
            self._runtime.remove()

    async def lockstep_address(self) -> LockstepAddress:
        """Fresh ports of this machine. Raises OSError when none are free."""
        first = free_port_run(LOCKSTEP_PORTS + 1)
        return LockstepAddress(host=self._address, rpc_port=first, master_port=first + 1)

    async def start(self, draft: RankSpec, variables: RankVariables) -> "MachineRank":
        """Starts a rank below a guardian, with a folder and a log of its own. Raises OSError."""
        directory = self._folder / f"{draft.rank}.{draft.incarnation}"
        spec = msgspec.structs.replace(draft, directory=str(directory), log_file=str(self._log_file(draft.rank)))
        shared_memory = SharedMemory()
        try:
            environ = environment(self._environ, variables, directory) | await self._sharing(spec)
            process = await RankProcess.start(spec, environ)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return MachineRank(process, directory, shared_memory)

    async def _sharing(self, spec: RankSpec) -> dict[str, str]:
        """What a rank needs to share its GPU with others. Raises OSError where MPS is wanted and does not start."""
        if not spec.mps:
            return {}
        if self._mps is None:
            self._mps = Mps(self._environ)
        return await self._mps.ensure(self._folder)

    def pulse_reader(self) -> PulseReader:
        """Reads /proc."""
        return PulseReader()

    def new_log(self, rank: int) -> LogPart:
        """A part of a file in the folder of logs. Raises OSError."""
        return LogPart(self._log_file(rank))

    async def take_memory_baseline(self, gpus: Sequence[str]) -> None:
        """As NVML says. Only the first time: later, what a rank has left would count as others'."""
        if tuple(gpus) not in self._memory:
            memory = self._memory[tuple(gpus)] = GpuMemory(gpus)
            await memory.take_baseline()

    async def await_free_memory(self, gpus: Sequence[str]) -> None:
        """Returns once no more is in use than the baseline, or after a while."""
        memory = self._memory.get(tuple(gpus))
        if memory is not None:
            await memory.wait_free()

    def _log_file(self, rank: int) -> Path:
        return self._log_dir / f"rank-{rank}.log"

    @property
    def _folder(self) -> Path:
        if self._runtime is None:
            raise RuntimeError("the host has not been opened")
        return self._runtime.path


class MachineRank:
    """A guardian on this machine and what is below it."""

    def __init__(self, process: RankProcess, directory: Path, shared_memory: SharedMemory) -> None:
        self._process = process
        self._directory = directory
        self._shared_memory = shared_memory
        self._is_guardian_killed = False

    async def wait(self) -> int:
        """Until the guardian has ended, and with it everything below it. Its exit code; see RankProcess.wait."""
        code = await self._process.wait()
        self._is_guardian_killed = code < 0
        return code

    def cut(self) -> None:
        """Lets go of the guardian's lifeline. May be called twice."""
        self._process.cut()

    async def end(self) -> None:
        """The same, and waits."""
        self.cut()
        try:
            await self.wait()
        finally:  # also when nobody waits any more
            shutil.rmtree(self._directory, ignore_errors=True)  # a guardian that was killed has left it

    async def clear_up(self) -> None:
        """Ends what a killed guardian has left behind."""
        if self._is_guardian_killed:
            await clear_strays(RankProcess.guardians, self._directory.parent, self._shared_memory)
