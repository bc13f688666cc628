"""One life of one rank: its connection, its processes, and the end of both."""

import asyncio
import contextlib

from app.logs import get_logger
from app.ranks import plan as planning
from app.ranks.hosts.host import Connection, Host, HostedRank, HostLost, OnBroken, OnMessage
from app.ranks.plan import Plan
from app.ranks.rank import Rank, RankState
from app.settings.declaration import Settings
from engines.contract.protocol import Message, Stop
from engines.contract.spec import GatewayAddress, LockstepAddress

logger = get_logger("ranks")
STOP_MARGIN_S = 1.0  # beyond the rank's own deadline for its engine


class Incarnation:
    """Has a rank started on its host, talks to it, and sees it end. What it says goes to `on_message`."""

    def __init__(
        self, rank: Rank, host: Host, settings: Settings, plan: Plan, lockstep: LockstepAddress | None
    ) -> None:
        self.rank = rank
        self._host = host
        self._settings = settings
        self._plan = plan
        self._lockstep = lockstep
        self._connection: Connection | None = None
        self._process: HostedRank | None = None
        self._is_cut = False

    def __str__(self) -> str:
        return f"rank {self.rank.number}.{self.rank.incarnation}"

    async def run(self, on_message: OnMessage, on_lost: OnBroken) -> int:
        """From the start of the rank to its end, however it comes. Returns its exit code (see HostedRank.wait).

        Raises OSError when it cannot be started.
        """
        rank = self.rank
        self._connection = self._host.connect(rank.number, rank.incarnation, on_message, on_lost)
        try:
            self._process = await self._start(self._connection.address)
            if self._is_cut:  # while it was being started
                self._process.cut()
            timer = asyncio.get_running_loop().call_later(self._settings.start_timeout_s, self._too_slow, on_lost)
            try:
                code = await self._process.wait()
            finally:
                timer.cancel()
            # At once: when the fleet stops, the rest of this may be cancelled.
            logger.info("rank_ended", **rank.ids, exit_code=code)
            # It ended by itself, and may have said why. One whose guardian was killed says nothing, and its host must
            # look at what it maps while it lives.
            if not self._is_cut and code >= 0:
                await self._connection.hear_out()
        finally:
            await self._close()
        return code

    def send(self, message: Message) -> None:
        """A message to the rank; dropped when it is gone."""
        if self._connection is not None:
            self._connection.send(message)

    def cut(self) -> None:
        """Ends the processes without asking, also while they are being started."""
        self._is_cut = True
        if self._process is not None:
            self._process.cut()

    async def stop(self) -> None:
        """Asks a rank that serves to stop; ends one that loads, or that does not stop in time."""
        if self._process is None:
            self._is_cut = True  # it may be about to be started
            return
        with contextlib.suppress(HostLost):  # then it has stopped
            await self._stop(self._process)

    async def _stop(self, process: HostedRank) -> None:
        if not self.rank.is_serving:
            self.cut()
            await process.wait()
            return
        self.send(Stop(incarnation=self.rank.incarnation))
        deadline_s = self._settings.stop_timeout_s + STOP_MARGIN_S
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), deadline_s)
            return
        logger.warning("rank_killed", **self.rank.ids, timeout_s=deadline_s)
        await process.end()

    async def clear_up(self) -> None:
        """Returns once nothing of this life is left on its host; to be called when its whole group has ended."""
        if self._process is not None:
            await self._process.clear_up()

    async def _close(self) -> None:
        """Leaves neither processes nor a connection, when the life is cut short by a cancellation, too."""
        try:
            if self._process is not None:
                await self._process.end()
        finally:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    async def _start(self, address: GatewayAddress) -> HostedRank:
        rank, settings, plan = self.rank, self._settings, self._plan
        draft = planning.make_spec(settings, plan, rank.number, rank.incarnation, address, rank.share, self._lockstep)
        return await self._host.start(draft, planning.variables(settings, plan, rank.share, self._lockstep))

    def _too_slow(self, on_lost: OnBroken) -> None:
        if self.rank.state is RankState.STARTING:
            limit = f"{self._settings.start_timeout_s:g} s (--start-timeout-s)"
            on_lost(f"it was not ready after {limit}, in stage {self.rank.stage}")
