"""All ranks of this gateway: started once the model is known, listened to, and stopped.

The fleet knows which groups there are and what their ranks say; each group looks after its own lives (group.py), and
what ranks do for items is the listener's business.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from app.errors import FatalError
from app.logs import get_logger
from app.ranks import plan as planning
from app.ranks.devices import Allotment
from app.ranks.events import GroupListener
from app.ranks.first_start import failed_first_start
from app.ranks.group import Group
from app.ranks.group_environment import GroupEnvironment
from app.ranks.hosts.host import Host
from app.ranks.hosts.hosts import Hosts, make_hosts
from app.ranks.hosts.node import NodeHost
from app.ranks.model import model_of
from app.ranks.plan import Plan
from app.ranks.questions import Questions
from app.ranks.rank import Rank, RankState
from app.ranks.scaling import Scaled, Scaling
from app.ranks.tuned import take_tuned
from app.settings.declaration import Settings
from app.settings.folders import log_folder
from engines import tasks
from engines.contract.protocol import (
    Checked,
    Chunks,
    Counted,
    Failed,
    FailureKind,
    FromRank,
    Hello,
    Message,
    RankFacts,
    Ready,
    Results,
    Scraped,
    StageReached,
    Status,
    Stopped,
)
from engines.failures import kind

logger = get_logger("ranks")
CLEAR_UP_TIMEOUT_S = 10.0  # for the ends of the groups' lives, once all of their processes have ended


class Fleet:
    """Starts the groups, keeps their ranks' state, and stops them."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        allotment: Allotment,
        listener: GroupListener,
        on_change: Callable[[], None],
    ) -> None:
        settings, allotment, self._tuned = take_tuned(settings, allotment, environ)
        self._settings = settings
        self._environ = environ
        self._hosts = make_hosts(settings, environ, allotment, self, self.fail)
        self._listener = listener
        self._on_change = on_change
        self._is_stopping = False
        self._launching: asyncio.Task[None] | None = None
        self._living: list[asyncio.Task[None]] = []  # the groups' lives
        self._dismissals: set[asyncio.Task[None]] = set()  # of nodes that want to leave
        self._scaling = Scaling(self, self._hosts, self._add, self._remove, self.fail)
        self.questions = Questions(self.send)
        self.plan: Plan | None = None
        self.ranks = [Rank(number, group=0) for number in range(self._hosts.ranks)]
        self.groups: dict[int, Group] = {}  # by number, once the plan is made
        self.fatal: asyncio.Future[FatalError] = asyncio.get_running_loop().create_future()

    # -- the life of the fleet

    def start(self) -> None:
        """Begins to start the ranks, and returns at once."""
        self._launching = tasks.start(self._launch(), "launch ranks", self.fail)

    async def stop(self) -> None:
        """Stops every rank: asked first, killed when it does not end in time. May be called twice."""
        self._is_stopping = True
        if self.groups:
            logger.info("ranks_stopping", ranks=[rank.number for rank in self.ranks if rank.is_alive])
        try:
            await asyncio.gather(*(group.stop() for group in self.groups.values()))
        except asyncio.CancelledError:  # a second signal: nobody waits for what the ranks still do
            self._cut()
            raise
        finally:
            await tasks.end(self._launching)
            if self._living:  # what a killed guardian has left is cleared up then
                await asyncio.wait(self._living, timeout=CLEAR_UP_TIMEOUT_S)
            await tasks.end(*self._living, *self._dismissals, self._scaling.removing)
            await self._hosts.stop()

    async def kill(self) -> None:
        """Stops every rank without asking."""
        self._cut()
        await self.stop()

    def _cut(self) -> None:
        for group in self.groups.values():
            group.cut()

    def fail(self, what: str, error: BaseException) -> None:
        """Something of the gateway itself failed. What it was to do will not be done, so the service ends."""
        words = kind(error, with_message=self._settings.log_prompts)
        self._give_up(error if isinstance(error, FatalError) else FatalError(f"{what}: {words}", 1))

    # -- what others ask

    def send(self, rank: int, message: Message) -> None:
        """A message to a rank; dropped when the rank is gone."""
        group = self.groups.get(self.ranks[rank].group)
        if group is not None:
            group.send(rank, message)

    def group_of(self, rank: int) -> Group | None:
        """The group that a rank lives and dies with; None before there are groups."""
        return self.groups.get(self.ranks[rank].group)

    def host_of(self, rank: int) -> Host:
        """Where a rank runs."""
        return self._hosts.of_rank(rank)

    @property
    def hosts(self) -> Hosts:
        """All machines that ranks run on."""
        return self._hosts

    @property
    def ranks_taking_items(self) -> list[Rank]:
        """Those of the groups that take items."""
        return [rank for group in self.groups.values() if group.takes_items for rank in group.ranks]

    @property
    def max_model_len(self) -> int | None:
        """The longest context of a rank that takes items, in tokens; None while none does."""
        return max(
            (rank.facts.max_model_len for rank in self.ranks_taking_items if rank.facts is not None), default=None
        )

    @property
    def facts(self) -> RankFacts | None:
        """What the first rank that is up says of its engine; all say the same of the model."""
        return next((rank.facts for rank in self.ranks if rank.facts is not None), None)

    @property
    def is_complete(self) -> bool:
        """Whether every rank takes items."""
        return bool(self.groups) and len(self.ranks_taking_items) == len(self.ranks)

    @property
    def has_hope(self) -> bool:
        """Whether any rank is ready or may become so by itself."""
        return any(rank.state is not RankState.BROKEN for rank in self.ranks)

    # -- starting

    async def _launch(self) -> None:
        try:
            self.plan = await self._make_plan(await self._hosts.meet())
        except FatalError as error:
            self._give_up(error)
            return
        folder = str(log_folder(self._settings, self._environ))
        logger.info("ranks_starting", log_dir=folder, **planning.figures(self._settings, self.plan))
        self._begin(self.plan, self.ranks)

    async def _make_plan(self, device: str) -> Plan:
        model = await model_of(self._settings, self._environ)
        return planning.make_plan(self._settings, model, device, len(self.ranks), self._tuned)

    def _begin(self, plan: Plan, ranks: Sequence[Rank]) -> None:
        """The groups of these ranks are placed, and start."""
        groups = self._make_groups(plan, ranks)
        self._hosts.place({group.number: [rank.number for rank in group.ranks] for group in groups})
        self._living += [tasks.start(group.run(), f"group {group.number}", self.fail) for group in groups]

    def _make_groups(self, plan: Plan, ranks: Sequence[Rank]) -> list[Group]:
        around = GroupEnvironment(self._settings, plan, self.host_of)
        made = {
            number: Group(number, own, around, self._listener, self._on_message, self._on_group_change, self.fail)
            for number, own in around.divide(ranks).items()
        }
        self.groups |= made
        return list(made.values())

    # -- more ranks, or fewer

    def scale(self, dp_size: int) -> Scaled:
        """From now on there are so many ranks. Raises NotScalable, with nothing changed."""
        return self._scaling.scale(dp_size)

    def _add(self, plan: Plan, ranks: Sequence[Rank]) -> None:
        self.ranks += ranks
        self._begin(plan, ranks)

    async def _remove(self, ranks: Sequence[Rank]) -> None:
        await asyncio.gather(*(self.groups[rank.group].retire() for rank in ranks))
        for rank in reversed(ranks):
            self.questions.forget(rank.number)
            self.ranks.remove(rank)
            del self.groups[rank.group]
            self._hosts.give_up(rank.number)
        self._on_change()

    # -- nodes that come and go

    def node_joined(self, node: NodeHost) -> None:
        """Groups that wait for it start."""
        for number in {rank.group for rank in self.ranks if self.host_of(rank.number) is node}:
            if number in self.groups:
                self.groups[number].nodes_changed.set()

    def node_leaving(self, node: NodeHost) -> None:
        """The groups that have ranks there finish what they hold, and then wait for it to come back."""
        task = tasks.start(self._dismiss(node), f"dismiss node {node.number}", self.fail)
        self._dismissals.add(task)
        task.add_done_callback(self._dismissals.discard)

    async def _dismiss(self, node: NodeHost) -> None:
        members = {rank.group for rank in self.ranks if self.host_of(rank.number) is node}
        await asyncio.gather(*(self.groups[number].leave() for number in members if number in self.groups))
        self._hosts.dismiss(node)

    # -- what a rank says

    def _on_message(self, rank: Rank, message: FromRank) -> None:
        if message.incarnation != rank.incarnation:
            return
        rank.heard()
        match message:
            case Results() | Chunks():
                self._on_work(rank, message)
            case Status():
                rank.beat(message)
            case StageReached():
                rank.reach(message.stage)
                logger.info("rank_stage", **rank.ids, stage=str(message.stage))
            case Hello():
                self._on_hello(rank, message)
            case Ready():
                self._on_ready(rank, message.facts)
            case Checked() | Counted() | Scraped():
                self.questions.answer(message)
            case Failed():
                self._on_failed(rank, message)
            case Stopped():
                self.groups[rank.group].rank_stopped(rank)

    def _on_work(self, rank: Rank, message: Results | Chunks) -> None:
        rank.results += 1
        if isinstance(message, Results):
            self._listener.results(rank.number, message.incarnation, message.results)
        else:
            self._listener.chunks(rank.number, message.incarnation, message.chunks)

    def _on_hello(self, rank: Rank, hello: Hello) -> None:
        rank.pid = hello.pid
        if (reason := planning.foreign(rank.number, hello)) is not None:
            self._give_up(FatalError(reason, 1))

    def _on_ready(self, rank: Rank, facts: RankFacts) -> None:
        mismatch = planning.mismatch(self.plan, facts) if self.plan else None
        if mismatch:
            self._give_up(FatalError(f"rank {rank.number} does not do what it was started for: {mismatch}", 1))
            return
        self.groups[rank.group].rank_ready(rank, facts)

    def _on_failed(self, rank: Rank, message: Failed) -> None:
        group = self.groups[rank.group]
        if message.kind is FailureKind.CONFIGURATION and not any(g.was_ever_ready for g in self.groups.values()):
            self._give_up(FatalError(message.reason, 2))
        group.lose(rank, message.reason, untouched=message.untouched)

    # -- losing

    def _on_group_change(self, group: Group) -> None:
        """Somebody may be waiting for it, and questions to ranks that are gone have no answer."""
        if group.loss is not None:
            for rank in group.ranks:
                self.questions.forget(rank.number)
            if (error := failed_first_start(self.groups.values(), group, self.ranks)) is not None:
                self._give_up(error)
        self._on_change()

    def _give_up(self, error: FatalError) -> None:
        if not self.fatal.done():
            self.fatal.set_result(error)
