"""The ranks that live and die together: one life after another, started, watched, ended, and started again."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from app.logs import get_logger
from app.ranks import plan as planning
from app.ranks.channel import ChannelContext
from app.ranks.events import Aftermath, GroupListener, Loss, LossKind, Member
from app.ranks.failed_start import explained
from app.ranks.gpu_memory import GpuMemory
from app.ranks.incarnation import Incarnation
from app.ranks.plan import Plan
from app.ranks.policy import Break, Limits, RestartPolicy
from app.ranks.process import RankProcess, describe_exit
from app.ranks.pulse import HEARTBEAT_S, PulseTaker
from app.ranks.rank import Rank, RankState
from app.ranks.runtime import Runtime
from app.ranks.stalls import find_stall
from app.ranks.strays import clear_strays
from app.settings.declaration import Settings
from engines.contract.protocol import FromRank, Message
from engines.host.shared_memory import SharedMemory

logger = get_logger("ranks")
MOST_LATE_S = 5 * HEARTBEAT_S
DRAIN_POLL_S = 0.05


@dataclass(frozen=True)
class Surroundings:
    """What all groups of a gateway share."""

    settings: Settings
    variables: Mapping[str, str]  # the gateway's environment
    plan: Plan
    runtime: Runtime  # the ranks' sockets and private folders
    log_dir: Path
    context: ChannelContext


class Group:
    """Supervises its ranks. `on_message` hears what they say, `on_change` that something has changed."""

    def __init__(
        self,
        number: int,
        ranks: list[Rank],
        around: Surroundings,
        listener: GroupListener,
        on_message: Callable[[Rank, FromRank], None],
        on_change: Callable[["Group"], None],
    ) -> None:
        self.number = number
        self.ranks = ranks
        self.start_failures = 0  # since it was last ready
        self.was_ever_ready = False
        self.restarts: dict[LossKind, int] = dict.fromkeys(LossKind, 0)
        self.loss: Loss | None = None  # of the present life, or of the last one
        self._around = around
        self._listener = listener
        self._on_message = on_message
        self._on_change = on_change
        self._policy = RestartPolicy(Limits.of(around.settings))
        self._memory = GpuMemory([gpu for rank in ranks for gpu in rank.gpus])
        self._aftermath = Aftermath()
        self._lives: dict[int, Incarnation] = {}
        self._is_announced = False  # whether the listener knows it as ready
        self._is_stopping = False
        self._is_drained = False  # an operator wants it to take nothing new
        self._wake = asyncio.Event()  # ends a pause between two lives
        self._ending: asyncio.Task[None] | None = None  # an operator's restart under way

    # -- lives

    async def run(self) -> None:
        """One life after another, until the group is stopped."""
        await self._memory.take_baseline()
        while not self._is_stopping:
            await self._live()
            if not self._is_stopping and self.loss is not None:
                loss = await asyncio.to_thread(explained, self.loss, self.ranks)  # their logs are whole now
                if loss is not self.loss:
                    self.loss = loss
                    for rank in self.ranks:
                        rank.last_error = loss.reason_for(rank.number)
                await self._pause(loss)

    async def stop(self) -> None:
        """Ends it: ranks that serve are asked first. May be called twice."""
        self._is_stopping = True
        self._wake.set()
        if self._ending is not None:
            self._ending.cancel()
        await asyncio.gather(*(life.stop() for life in list(self._lives.values())))

    def cut(self) -> None:
        """Ends all its processes without asking."""
        for life in self._lives.values():
            life.cut()

    def send(self, rank: int, message: Message) -> None:
        """A message to one of its ranks; dropped when that is gone."""
        if rank in self._lives:
            self._lives[rank].send(message)

    async def _live(self) -> None:
        """From the start of all its processes to the end of all of them."""
        around = self._around
        self.loss, self._is_announced = None, False
        self._wake.clear()  # whoever asked for a restart has it
        for rank in self.ranks:
            rank.begin(rank.incarnation + 1, around.log_dir / f"rank-{rank.number}.log")
        try:
            lockstep = planning.lockstep_address(around.plan)
            around.runtime.ensure()
        except OSError as error:  # no port or no room on the disk is free now
            self.lose(self.ranks[0], str(error))
            return
        shared_memory = SharedMemory()
        for rank in self.ranks:
            self._lives[rank.number] = Incarnation(
                rank, around.settings, around.variables, around.plan, around.runtime.path, lockstep
            )
        watching = asyncio.create_task(self._watch(), name=f"watch group {self.number}")
        try:
            async with asyncio.TaskGroup() as lives:
                played = [lives.create_task(self._play(life), name=str(life)) for life in self._lives.values()]
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            self._lives.clear()
        if any(
            (code := task.result()) is not None and code < 0 for task in played
        ):  # a guardian was killed: what it kept may be left
            await clear_strays(RankProcess.guardians, self._around.runtime.path, shared_memory)

    async def _play(self, life: Incarnation) -> int | None:
        """One rank's part in the group's life. Its end is the end of the group's."""
        rank = life.rank
        code: int | None = None
        try:
            code = await life.run(
                self._around.context,
                on_message=lambda message: self._on_message(rank, message),
                on_lost=lambda reason: self.lose(rank, reason),
            )
            ended = describe_exit(code)
        except OSError as error:
            ended = f"it could not be started: {error}"
        if self._is_stopping:
            rank.state = RankState.STOPPED
        self.lose(rank, ended)
        return code

    async def _pause(self, loss: Loss) -> None:
        """Between two lives: as long as the policy says, or until an operator says otherwise."""
        self.restarts[loss.kind] += 1
        if loss.kind is LossKind.CANNOT_START:
            self.start_failures += 1
            self._listener.group_given_up(self.number, loss.reason)
        decision = self._policy.decide(loss, self._aftermath, time.monotonic())
        if isinstance(decision, Break):
            self._set_state(RankState.BROKEN, decision.reason)
            logger.error("group_broken", group=self.number, reason=decision.reason)
            self._listener.group_given_up(self.number, decision.reason)
            self._on_change(self)
            await self._wake.wait()
        elif decision.delay_s:
            self._set_state(RankState.BACKOFF)
            delay_s = round(decision.delay_s, 2)
            logger.warning(
                "group_restarting", group=self.number, after=str(loss.kind), delay_s=delay_s, reason=loss.reason
            )
            self._on_change(self)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), decision.delay_s)
        await self._memory.wait_free()

    # -- what its ranks say

    def rank_ready(self) -> None:
        """One of its ranks is ready: once all are, the listener hears of it."""
        members = [Member(r.number, r.incarnation, r.facts) for r in self.ranks if r.is_ready and r.facts]
        if len(members) < len(self.ranks) or self.loss is not None:
            return
        self._is_announced = self.was_ever_ready = True
        self.start_failures = 0
        self._policy.started()
        logger.info("group_ready", group=self.number, ranks=[rank.number for rank in self.ranks])
        if self._is_drained:  # it crashed before an operator restarted it
            self._set_state(RankState.DRAINING)
        self._listener.group_ready(self.number, members, is_held=self._is_drained)
        self._on_change(self)

    def lose(self, rank: Rank, reason: str, kind: LossKind | None = None, untouched: Iterable[int] = ()) -> None:
        """The rank is gone, and the group with it. Its items run again, and what is left of its processes is killed."""
        if self._is_stopping or self.loss is not None:
            return
        if kind is None:
            kind = LossKind.DIED if self._is_announced else LossKind.CANNOT_START
        loss = Loss(kind, reason, rank.number, frozenset(untouched))
        try:
            self._end_life(loss)
        finally:  # whatever its listener makes of it, nothing of the group goes on
            level = logging.INFO if kind is LossKind.ENDED else logging.ERROR
            logger.log(level, "rank_lost", **rank.ids, kind=str(kind), reason=reason)
            for member in self.ranks:
                member.fail(loss.reason_for(member.number))
            self.cut()
            self._on_change(self)

    def _end_life(self, loss: Loss) -> None:
        self.loss = loss
        self._aftermath = self._listener.group_lost(self.number, loss)

    async def _watch(self) -> None:
        """Looks for a stall, while the group serves."""
        takers = [PulseTaker(rank) for rank in self.ranks]
        while True:
            looked_at = time.monotonic()
            await asyncio.sleep(HEARTBEAT_S)
            if time.monotonic() - looked_at > MOST_LATE_S:  # this process stood still: what the ranks said is unread
                takers = [PulseTaker(rank) for rank in self.ranks]
                for rank in self.ranks:
                    rank.heard()
                continue
            if not self._is_announced or self.loss is not None:
                continue
            held = [self._listener.held(taker.rank.number) for taker in takers]
            pulses = [taker.take(items, group_works=any(held)) for taker, items in zip(takers, held, strict=True)]
            stall = find_stall(pulses, self._around.settings.stall_timeout_s, HEARTBEAT_S)
            if stall is not None:
                rank = next(rank for rank in self.ranks if rank.number == stall[0])
                self.lose(rank, f"it is stalled: {stall[1]}", LossKind.STALLED)

    # -- the operator's hand

    @property
    def is_serving(self) -> bool:
        """Whether it runs items."""
        return self._is_announced and self.loss is None

    def drain(self) -> bool:
        """Finishes what it holds and takes nothing new. False when it does not serve."""
        if not self.is_serving:
            return False
        if not self._is_drained:
            self._is_drained = True
            logger.info("group_draining", group=self.number)
            self._hold()
            self._on_change(self)
        return True

    def _hold(self) -> None:
        self._set_state(RankState.DRAINING)
        self._listener.group_held(self.number)

    def restart(self) -> None:
        """A new life: at once, or for a group that serves when it has finished what it holds, or the deadline comes."""
        logger.info("group_restart_asked", group=self.number, state=str(self.ranks[0].state))
        self._policy.reset()
        if self.drain():
            if self._ending is None or self._ending.done():
                self._ending = asyncio.create_task(self._end_gently(), name=f"restart group {self.number}")
            return
        self._is_drained = False
        if self.loss is not None:
            self._set_state(RankState.BACKOFF)  # it is not broken any more
            self._wake.set()
        else:
            self.lose(self.ranks[0], "an operator restarts it", LossKind.ENDED)

    async def _end_gently(self) -> None:
        deadline = time.monotonic() + self._around.settings.drain_timeout_s
        life = self.ranks[0].incarnation
        while self.is_serving and time.monotonic() < deadline and self._holds_work():  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(DRAIN_POLL_S)
        self._is_drained = False
        if self.loss is None and self.ranks[0].incarnation == life:  # else it has a new life already
            self._end_life(Loss(LossKind.ENDED, "an operator restarts it", self.ranks[0].number))
            self._on_change(self)
            await asyncio.gather(*(life.stop() for life in list(self._lives.values())))

    def _holds_work(self) -> bool:
        running = any(self._listener.held(rank.number) for rank in self.ranks)
        return running or self._listener.suspects(self.number) > 0

    def _set_state(self, state: RankState, reason: str | None = None) -> None:
        for rank in self.ranks:
            rank.state = state
            rank.last_error = reason or rank.last_error
