"""All ranks of this gateway: started once the model is known, listened to, and stopped.

The fleet knows what the ranks' processes are doing; what ranks do for items is the listener's business. A rank that
dies takes its group with it: the others of a lock-step group could only hang in their next collective.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from app.errors import FatalError
from app.logs import get_logger
from app.ranks import plan as planning
from app.ranks.channel import new_context
from app.ranks.incarnation import Incarnation
from app.ranks.model import ModelFacts, inspect_model
from app.ranks.plan import Plan, Share
from app.ranks.questions import Questions
from app.ranks.rank import Rank, RankState
from app.settings import BUILT_IN_MODEL, Settings
from engines.protocol import (
    PROTOCOL_VERSION,
    Checked,
    Failed,
    FailureKind,
    FromRank,
    Hello,
    Message,
    RankFacts,
    Ready,
    Result,
    Results,
    Scraped,
    StageReached,
    Status,
    Stopped,
)
from engines.spec import EngineKind, GroupKind, LockstepAddress

logger = get_logger("ranks")
FAILURE_TAIL_LINES = 20  # of a rank's log, printed when the service ends because of it
LONGEST_TEMPORARY_FOLDER = 40  # vLLM's sockets lie below it, and a socket's path has at most 108 bytes


class RankListener(Protocol):
    """Who wants to know what becomes of the ranks."""

    def rank_ready(self, rank: int, incarnation: int, facts: RankFacts) -> None:
        """The rank takes items."""

    def results(self, rank: int, incarnation: int, results: list[Result]) -> None:
        """Attempts that ended."""

    def rank_lost(self, rank: int, reason: str) -> None:
        """The rank takes nothing any more, and what it held is lost."""


class Fleet:
    """Starts the ranks, keeps their state, and stops them."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        device: str,
        shares: tuple[Share, ...],
        listener: RankListener,
        on_change: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._device = device
        self._shares = shares
        self._listener = listener
        self._on_change = on_change
        self._stopping = False
        self._context = new_context()
        self._runtime: Path | None = None  # the ranks' sockets and private folders, once there are ranks
        self._incarnations: dict[int, Incarnation] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.questions = Questions(self.send)
        self.plan: Plan | None = None
        self.ranks = [Rank(number, group=0) for number in range(len(shares))]
        self.fatal: asyncio.Future[FatalError] = asyncio.get_running_loop().create_future()

    # -- the life of the fleet

    def start(self) -> None:
        """Begins to start the ranks, and returns at once."""
        self._own(self._launch(), "launch ranks")

    async def stop(self) -> None:
        """Stops every rank: asked first, killed when it does not end in time. May be called twice."""
        self._stopping = True
        if self._incarnations:
            logger.info("ranks_stopping", ranks=sorted(self._incarnations))
        await asyncio.gather(*(incarnation.stop() for incarnation in list(self._incarnations.values())))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._context.destroy(linger=0)  # term would wait for a socket that somebody forgot
        if self._runtime is not None:
            shutil.rmtree(self._runtime, ignore_errors=True)

    async def kill(self) -> None:
        """Stops every rank without asking."""
        for incarnation in self._incarnations.values():
            incarnation.cut()
        await self.stop()

    # -- what others ask

    def send(self, rank: int, message: Message) -> None:
        """A message to a rank; dropped when the rank is gone."""
        if rank in self._incarnations:
            self._incarnations[rank].send(message)

    @property
    def groups(self) -> dict[int, list[Rank]]:
        """Ranks by the group they live and die with."""
        groups: dict[int, list[Rank]] = {}
        for rank in self.ranks:
            groups.setdefault(rank.group, []).append(rank)
        return groups

    @property
    def ready_ranks(self) -> list[Rank]:
        """Ranks that take items: those of groups that are ready as a whole."""
        return [rank for ranks in self.groups.values() if all(r.is_ready for r in ranks) for rank in ranks]

    @property
    def is_complete(self) -> bool:
        """Whether every rank is ready."""
        return all(rank.is_ready for rank in self.ranks)

    @property
    def has_hope(self) -> bool:
        """Whether any rank is ready or may become so."""
        return any(rank.is_alive or rank.state is RankState.PENDING for rank in self.ranks)

    # -- starting

    async def _launch(self) -> None:
        try:
            self.plan = planning.make_plan(self._settings, await self._inspect(), self._device, self._shares)
        except FatalError as error:
            self._give_up(error)
            return
        for rank, share in zip(self.ranks, self._shares, strict=True):
            rank.group = self.plan.group_of(rank.number)
            rank.gpus, rank.cores = share.gpus, share.cores
        logger.info("ranks_starting", log_dir=str(self._log_dir), **planning.figures(self._settings, self.plan))
        self._runtime = Path(tempfile.mkdtemp(prefix="phalanx-", dir=_short_temporary_folder()))
        lockstep = planning.new_lockstep_address() if self.plan.group_kind is GroupKind.LOCKSTEP else None
        for rank in self.ranks:
            self._own(self._live(rank, self.plan, self._runtime, lockstep), f"rank {rank.number}")

    async def _inspect(self) -> ModelFacts:
        settings = self._settings
        if settings.engine is EngineKind.SIMULATED:  # there is no model: its options say what it plays
            return ModelFacts(settings.public_name, is_moe=settings.engine_args.get("is_moe") is True)
        return await inspect_model(settings.model or BUILT_IN_MODEL, settings.revision)

    async def _live(self, rank: Rank, plan: Plan, runtime: Path, lockstep: LockstepAddress | None) -> None:
        """One incarnation, from its start to its end."""
        log_file = self._log_dir / f"rank-{rank.number}.log"
        incarnation = Incarnation(rank, self._settings, self._environ, plan, runtime, log_file, lockstep)
        self._incarnations[rank.number] = incarnation
        try:
            ended = await incarnation.run(self._context, self._on_message, self._lose)
        finally:
            del self._incarnations[rank.number]
        if self._stopping:
            rank.state = RankState.STOPPED
        else:
            self._lose(rank, ended)

    # -- what a rank says

    def _on_message(self, rank: Rank, message: FromRank) -> None:
        if message.incarnation != rank.incarnation:
            return
        match message:
            case Results():
                self._listener.results(rank.number, message.incarnation, message.results)
            case Status():
                rank.beat(message)
            case StageReached():
                rank.reach(message.stage)
                logger.info("rank_stage", rank=rank.number, incarnation=rank.incarnation, stage=str(message.stage))
            case Hello():
                self._on_hello(rank, message)
            case Ready():
                self._on_ready(rank, message.facts)
            case Checked() | Scraped():
                self.questions.answer(message)
            case Failed():
                self._on_failed(rank, message)
            case Stopped():
                rank.state = RankState.STOPPED

    def _on_hello(self, rank: Rank, hello: Hello) -> None:
        rank.pid = hello.pid
        if hello.protocol != PROTOCOL_VERSION or hello.rank != rank.number:
            said = f"rank {rank.number} speaks protocol {hello.protocol} as rank {hello.rank}, the gateway"
            remedy = f"{PROTOCOL_VERSION}: two versions of Phalanx are installed, install one"
            self._give_up(FatalError(f"{said} {remedy}", 1))

    def _on_ready(self, rank: Rank, facts: RankFacts) -> None:
        if self._stopping or self.plan is None or rank.state is not RankState.STARTING:
            return  # it is late: the rank has been given up
        mismatch = planning.mismatch(self.plan, facts)
        if mismatch:
            self._give_up(FatalError(f"rank {rank.number} does not do what it was started for: {mismatch}", 1))
            return
        rank.facts = facts
        rank.state = RankState.READY
        logger.info("rank_ready", rank=rank.number, incarnation=rank.incarnation, engine=facts.engine)
        group = self.groups[rank.group]
        if all(member.is_ready for member in group):
            for member in group:
                if member.facts is not None:
                    self._listener.rank_ready(member.number, member.incarnation, member.facts)
        self._on_change()

    def _on_failed(self, rank: Rank, message: Failed) -> None:
        if message.kind is FailureKind.CONFIGURATION:
            self._give_up(FatalError(message.reason, 2))
        self._lose(rank, message.reason)

    # -- losing

    def _lose(self, rank: Rank, reason: str) -> None:
        """The rank is gone, and its group with it. What is left of their processes is ended."""
        if self._stopping or rank.state is RankState.FAILED:
            return
        was_ready = any(member.is_ready for member in self.groups[rank.group])
        logger.error("rank_lost", rank=rank.number, incarnation=rank.incarnation, reason=reason)
        rank.fail(reason)
        group = self.groups[rank.group]
        for member in group:
            member.fail(f"its lock-step group lost rank {rank.number}: {reason}")
        for member in group:
            self.questions.forget(member.number)
            self._listener.rank_lost(member.number, reason)
            if member.number in self._incarnations:
                self._incarnations[member.number].cut()
        if not self.has_hope and not was_ready:
            tail = "\n".join(f"  {line}" for line in rank.log_tail(FAILURE_TAIL_LINES))
            self._give_up(FatalError(f"rank {rank.number} could not start: {reason}\n{tail}", 1))
        self._on_change()

    def _give_up(self, error: FatalError) -> None:
        if not self.fatal.done():
            self.fatal.set_result(error)

    # -- small things

    @property
    def _log_dir(self) -> Path:
        return self._settings.log_dir or state_folder(self._environ) / "logs" / str(self._settings.port)

    def _own(self, coroutine: "asyncio._CoroutineLike[None]", name: str) -> None:
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._notice_end)

    def _notice_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("task_failed", task=task.get_name(), exc_info=error)
            self._give_up(FatalError(f"{task.get_name()}: {error}", 1))


def state_folder(environ: Mapping[str, str]) -> Path:
    """Where the service keeps what outlives it: $XDG_STATE_HOME/phalanx."""
    return Path(environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "phalanx"


def _short_temporary_folder() -> str | None:
    short = len(tempfile.gettempdir()) <= LONGEST_TEMPORARY_FOLDER
    return None if short else "/tmp"  # noqa: S108  a private folder is made in it
