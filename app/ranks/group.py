"""The ranks that live and die together: one life after another, started, watched, ended, and started again."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from app.logs import get_logger
from app.ranks.events import Aftermath, GroupListener, Loss, LossKind, Member
from app.ranks.failed_start import explained
from app.ranks.group_environment import GroupEnvironment
from app.ranks.hosts.host import HostLost
from app.ranks.incarnation import Incarnation
from app.ranks.lives import Lives
from app.ranks.policy import Break, Limits, RestartPolicy
from app.ranks.rank import Rank, RankState
from app.ranks.watch import StallWatch
from engines import tasks
from engines.contract.protocol import FromRank, Message, RankFacts
from engines.failures import kind as kind_of
from engines.host.rank_process import describe_exit

logger = get_logger("ranks")
DRAIN_POLL_S = 0.05


class Group:
    """Supervises its ranks. `on_message` hears what they say, `on_change` that something has changed, and `on_failure`
    that the gateway itself has failed them."""

    def __init__(
        self,
        number: int,
        ranks: list[Rank],
        environment: GroupEnvironment,
        listener: GroupListener,
        on_message: Callable[[Rank, FromRank], None],
        on_change: Callable[["Group"], None],
        on_failure: tasks.OnFailure,
    ) -> None:
        self.number = number
        self.ranks = ranks
        self.start_failures = 0  # since it was last ready
        self.was_ever_ready = False
        self.restarts: dict[LossKind, int] = dict.fromkeys(LossKind, 0)
        self.loss: Loss | None = None  # of the present life, or of the last one
        self._environment = environment
        self._listener = listener
        self._on_message = on_message
        self._on_change = on_change
        self._on_failure = on_failure
        self._policy = RestartPolicy(Limits.of(environment.settings))
        self._aftermath = Aftermath()
        self._lives = Lives(ranks, environment)
        self._is_announced = False  # whether the listener knows it as ready
        self._is_stopping = False
        self._is_last_life = False
        self._is_drained = False  # an operator wants it to take nothing new
        self._wake = asyncio.Event()  # ends a pause between two lives
        self.nodes_changed = asyncio.Event()  # a node has joined: it may be what the group waits for
        self._ending: asyncio.Task[None] | None = None  # an operator's restart under way

    # -- lives

    async def run(self) -> None:
        """One life after another, until the group is stopped."""
        while not self._is_last_life:
            try:
                if await self._await_nodes():
                    await self._live()
            except HostLost as error:  # between two steps of the start
                self.lose(self.ranks[0], str(error), LossKind.NODE_LOST)
            except OSError as error:  # no port or file descriptor is left, or the disk is full
                self.lose(self.ranks[0], str(error))
            if not self._is_last_life and self.loss is not None:
                loss = await asyncio.to_thread(explained, self.loss, self.ranks)  # their logs are whole now
                if loss is not self.loss:
                    self.loss = loss
                    for rank in self.ranks:
                        rank.last_error = loss.reason_for(rank.number)
                await self._pause(loss)

    async def stop(self) -> None:
        """Ends it: ranks that serve are asked first. May be called twice."""
        self._is_stopping = self._is_last_life = True
        self._wake.set()
        self.nodes_changed.set()
        await tasks.end(self._ending)
        await self._stop_lives()

    def cut(self) -> None:
        """Ends all its processes without asking."""
        self._lives.cut()

    def send(self, rank: int, message: Message) -> None:
        """A message to one of its ranks; dropped when that is gone."""
        self._lives.send(rank, message)

    async def _await_nodes(self) -> bool:
        """Returns once ranks can be started wherever they belong, or the group is stopped. Whether they can."""
        while (absent := self._environment.absent(self.ranks)) and not self._is_stopping:
            logger.warning("group_awaits_nodes", group=self.number, nodes=absent)
            self.nodes_changed.clear()
            for rank in self.ranks:
                rank.await_nodes()
            self._listener.group_given_up(self.number)  # for now: others can run what is on trial here
            self._on_change(self)
            await self.nodes_changed.wait()
        return not self._is_stopping

    async def _live(self) -> None:
        """From the start of all its processes to the end of all of them."""
        self.loss, self._is_announced = None, False
        self._wake.clear()  # whoever asked for a restart has it
        await self._lives.begin()
        watching = tasks.start(self._watch(), f"watch group {self.number}", self._on_failure)
        try:
            await self._lives.play(self._play)
        finally:
            await tasks.end(watching)
        await self._lives.clear_up()

    async def _play(self, life: Incarnation) -> None:
        """One rank's part in the group's life. Its end is the end of the group's."""
        rank = life.rank
        try:
            code = await life.run(
                on_message=lambda message: self._on_message(rank, message),
                on_lost=lambda reason: self.lose(rank, reason),
            )
            ended = describe_exit(code)
        except HostLost as error:
            self.lose(rank, str(error), LossKind.NODE_LOST)
            if self.loss is not None:  # its peers may have died of it before it was noticed itself
                self.loss = Loss(LossKind.NODE_LOST, str(error), rank.number)
            return
        except OSError as error:
            ended = f"it could not be started: {error}"
        if self._is_stopping:
            rank.stop()
        self.lose(rank, ended)

    async def _pause(self, loss: Loss) -> None:
        """Between two lives: as long as the policy says, or until an operator says otherwise."""
        self.restarts[loss.kind] += 1
        if loss.kind is LossKind.CANNOT_START:
            self.start_failures += 1
            self._listener.group_given_up(self.number)
        decision = self._policy.decide(loss, self._aftermath, time.monotonic())
        if isinstance(decision, Break):
            for rank in self.ranks:
                rank.give_up(decision.reason)
            logger.error("group_broken", group=self.number, reason=decision.reason)
            self._listener.group_given_up(self.number)
            self._on_change(self)
            await self._wake.wait()
        elif decision.delay_s:
            for rank in self.ranks:
                rank.wait()
            what = {"after": str(loss.kind), "delay_s": round(decision.delay_s, 2), "reason": loss.reason}
            logger.warning("group_restarting", group=self.number, **what)
            self._on_change(self)
            await tasks.comes_within(self._wake, decision.delay_s)
        await self._environment.await_free_memory(self.ranks)

    # -- what its ranks say

    def rank_ready(self, rank: Rank, facts: RankFacts) -> None:
        """One of its ranks is ready: once all are, the listener hears of it. One that was given up is late."""
        if self._is_stopping or rank.state is not RankState.STARTING:
            return
        rank.become_ready(facts)
        logger.info("rank_ready", **rank.ids, engine=facts.engine)
        members = [Member(r.number, r.incarnation, r.facts) for r in self.ranks if r.is_ready and r.facts]
        if len(members) < len(self.ranks) or self.loss is not None:
            return
        self._is_announced = self.was_ever_ready = True
        self.start_failures = 0
        self._policy.started()
        logger.info("group_ready", group=self.number, ranks=[rank.number for rank in self.ranks])
        if self._is_drained:  # it crashed before an operator restarted it
            self._drain_ranks()
        self._listener.group_ready(self.number, members, takes_items=not self._is_drained)
        self._on_change(self)

    def rank_stopped(self, rank: Rank) -> None:
        """It says that it ends because it was asked to."""
        rank.stop()

    def lose(self, rank: Rank, reason: str, kind: LossKind | None = None, untouched: Iterable[int] = ()) -> None:
        """The rank is gone, and the group with it. Its items run again, and what is left of its processes is killed."""
        if self._is_stopping or self.loss is not None:
            return
        kind = kind or self._environment.kind_of_loss(self.ranks, was_ready=self._is_announced)
        loss = Loss(kind, reason, rank.number, frozenset(untouched))
        self._end_life(loss)
        level = logging.INFO if kind is LossKind.ENDED else logging.ERROR
        logger.log(level, "rank_lost", **rank.ids, kind=str(kind), reason=reason)
        for member in self.ranks:
            member.fail(loss.reason_for(member.number))
        self.cut()
        self._on_change(self)

    def _end_life(self, loss: Loss) -> None:
        self.loss = loss
        tasks.guarded(self._tell_loss, f"loss of group {self.number}", self._on_failure)(loss)

    def _tell_loss(self, loss: Loss) -> None:
        self._aftermath = self._listener.group_lost(self.number, loss)

    async def _watch(self) -> None:
        """Looks for a stall, while the group serves."""
        limit_s = self._environment.settings.stall_timeout_s
        watch = StallWatch(self.ranks, self._environment.host_of, self._listener.held, limit_s)
        async for rank, reason in watch.stalls(lambda: self.is_serving):
            self.lose(rank, f"it is stalled: {reason}", LossKind.STALLED)

    # -- the operator's hand

    @property
    def is_serving(self) -> bool:
        """Whether it runs items: one that an operator drains finishes those that it has."""
        return self._is_announced and self.loss is None

    @property
    def takes_items(self) -> bool:
        """Whether it is given new ones."""
        return self.is_serving and not (self._is_drained or self._is_stopping)

    def drain(self) -> bool:
        """Finishes what it holds and takes nothing new. False when it does not serve."""
        if not self.is_serving:
            return False
        if not self._is_drained:
            self._is_drained = True
            logger.info("group_draining", group=self.number)
            self._drain_ranks()
            self._listener.group_draining(self.number)
            self._on_change(self)
        return True

    def restart(self) -> None:
        """A new life: at once, or for a group that serves when it has finished what it holds, or the deadline comes."""
        logger.info("group_restart_asked", group=self.number, state=str(self.ranks[0].state))
        self._policy.reset()
        if self.drain():
            if self._ending is None or self._ending.done():
                self._ending = tasks.start(self._end_gently(), f"restart group {self.number}", self._end_at_once)
            return
        self._is_drained = False
        if self.loss is not None:
            for rank in self.ranks:
                rank.wait()  # it is not broken any more
            self._wake.set()
        else:
            self.lose(self.ranks[0], "an operator restarts it", LossKind.ENDED)

    async def leave(self, kind: LossKind = LossKind.NODE_LOST, reason: str = "one of its nodes leaves") -> None:
        """Finishes what it holds, and ends; it starts again when its nodes are there."""
        if self.drain():
            await self._end_gently(kind, reason)
        elif self.loss is None:
            self.lose(self.ranks[0], reason, kind)

    async def retire(self) -> None:
        """Finishes what it holds, and ends for good. Others run what is on trial there."""
        self._is_last_life = True
        await self.leave(LossKind.ENDED, "it is not needed any more")
        self._listener.group_given_up(self.number)
        await self.stop()

    async def _end_gently(self, kind: LossKind = LossKind.ENDED, reason: str = "an operator restarts it") -> None:
        life, deadline = self.ranks[0].incarnation, time.monotonic() + self._environment.settings.drain_timeout_s
        while self.is_serving and time.monotonic() < deadline and self._holds_work():  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(DRAIN_POLL_S)
        self._is_drained = False
        if self.loss is None and self.ranks[0].incarnation == life:  # else it has a new life already
            self._end_life(Loss(kind, reason, self.ranks[0].number))
            self._on_change(self)
            await self._stop_lives()

    def _end_at_once(self, _: str, error: BaseException) -> None:
        self.lose(self.ranks[0], f"its restart failed: {kind_of(error, with_message=False)}", LossKind.ENDED)
        self.cut()

    def _holds_work(self) -> bool:
        running = any(self._listener.held(rank.number) for rank in self.ranks)
        return running or self._listener.suspects(self.number) > 0

    async def _stop_lives(self) -> None:
        """Ranks that serve are asked to stop."""
        for rank in self.ranks:
            if rank.is_ready:
                rank.drain()
        await self._lives.stop()

    def _drain_ranks(self) -> None:
        for rank in self.ranks:
            rank.drain()
