"""One life of one rank: its channel, its process, and the end of both."""

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from app.logs import get_logger
from app.ranks import plan as planning
from app.ranks.channel import ChannelContext, RankChannel
from app.ranks.plan import Plan
from app.ranks.process import RankProcess
from app.ranks.rank import Rank, RankState
from app.settings.declaration import Settings
from engines.contract.protocol import FromRank, Message, Stop
from engines.contract.spec import LockstepAddress

logger = get_logger("ranks")
STOP_MARGIN_S = 1.0  # beyond the rank's own deadline for its engine


class Incarnation:
    """Starts a rank's process, talks to it, and sees it end. What it says goes to `on_message`."""

    def __init__(
        self,
        rank: Rank,
        settings: Settings,
        environ: Mapping[str, str],
        plan: Plan,
        runtime: Path,
        lockstep: LockstepAddress | None,
    ) -> None:
        self.rank = rank
        self._settings = settings
        self._environ = environ
        self._plan = plan
        self._lockstep = lockstep
        self._directory = runtime / f"{rank.number}.{rank.incarnation}"
        self._socket = runtime / f"{rank.number}.{rank.incarnation}.sock"
        self._channel: RankChannel | None = None
        self._process: RankProcess | None = None
        self._is_cut = False

    def __str__(self) -> str:
        return f"rank {self.rank.number}.{self.rank.incarnation}"

    async def run(
        self, context: ChannelContext, on_message: Callable[[FromRank], None], on_lost: Callable[[str], None]
    ) -> int:
        """From the start of the process to its end, however it comes. Returns its exit code (see RankProcess.wait).

        Raises OSError when the process cannot be started.
        """
        rank = self.rank
        self._channel = RankChannel(context, self._socket, on_message=on_message, on_broken=on_lost)
        try:
            self._process = await self._start(self._channel.endpoint)
            if self._is_cut:  # while it was being spawned
                self._process.cut()
            timer = asyncio.get_running_loop().call_later(self._settings.start_timeout_s, self._too_slow, on_lost)
            try:
                code = await self._process.wait()
            finally:
                timer.cancel()
            # At once: when the fleet stops, the rest of this may be cancelled.
            logger.info("rank_ended", **rank.ids, exit_code=code)
            if not self._is_cut:  # it ended by itself, and may have said why
                await self._channel.hear_out()
        finally:
            await self._close()
        return code

    def send(self, message: Message) -> None:
        """A message to the rank; dropped when it is gone."""
        if self._channel is not None:
            self._channel.send(message)

    def cut(self) -> None:
        """Ends the process without asking: its guardian kills everything and cleans up. Also while it is spawned."""
        self._is_cut = True
        if self._process is not None:
            self._process.cut()

    async def stop(self) -> None:
        """Asks a rank that serves to stop; ends one that loads, or that does not stop in time."""
        if self._process is None:
            self._is_cut = True  # it may be about to be spawned
            return
        if not self.rank.is_serving:
            self.cut()
            await self._process.wait()
            return
        self.rank.state = RankState.DRAINING
        self.send(Stop(incarnation=self.rank.incarnation))
        deadline_s = self._settings.stop_timeout_s + STOP_MARGIN_S
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), deadline_s)
            return
        logger.warning("rank_killed", **self.rank.ids, timeout_s=deadline_s)
        await self._process.end()

    async def _close(self) -> None:
        """Leaves neither process nor socket, when the life is cut short by a cancellation, too."""
        try:
            if self._process is not None:
                await self._process.end()
        finally:
            if self._channel is not None:
                self._channel.close()
                self._channel = None
            shutil.rmtree(self._directory, ignore_errors=True)  # a guardian that was killed has left it

    async def _start(self, endpoint: str) -> RankProcess:
        number, incarnation = self.rank.number, self.rank.incarnation
        log_file = self.rank.log_file or self._directory / "rank.log"
        spec = planning.make_spec(
            self._settings, self._plan, number, incarnation, endpoint, self._directory, log_file, self._lockstep
        )
        variables = planning.environment(
            self._environ, self._settings, self._plan, number, self._directory, self._lockstep
        )
        return await RankProcess.start(spec, variables)

    def _too_slow(self, on_lost: Callable[[str], None]) -> None:
        if self.rank.state is RankState.STARTING:
            limit = f"{self._settings.start_timeout_s:g} s (--start-timeout-s)"
            on_lost(f"it was not ready after {limit}, in stage {self.rank.stage}")
