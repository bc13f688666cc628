"""A machine as a host of ranks."""

import asyncio
import contextlib
from pathlib import Path

from engines.host.machine import MachineRank
from engines.host.rank_process import RankProcess
from engines.host.shared_memory import SharedMemory


class Lingering(RankProcess):
    """A guardian that does not end."""

    def __init__(self) -> None:
        self.waited_for = asyncio.Event()

    def cut(self) -> None:
        """Nothing follows."""

    async def wait(self) -> int:
        """For ever."""
        self.waited_for.set()
        return await asyncio.get_running_loop().create_future()


def test_the_folder_of_a_rank_goes_also_when_nobody_waits_for_its_end(tmp_path: Path) -> None:
    directory = tmp_path / "0.1"
    directory.mkdir()

    async def run() -> None:
        process = Lingering()
        end = asyncio.ensure_future(MachineRank(process, directory, SharedMemory()).end())
        await process.waited_for.wait()
        end.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await end

    asyncio.run(run())
    assert not directory.exists()
