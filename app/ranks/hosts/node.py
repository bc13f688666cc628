"""Another machine as a host of ranks: its node agent does there what the local host does here."""

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum

from app.logs import get_logger
from app.ranks.hosts.host import HostLost, OnBroken, OnMessage
from app.ranks.hosts.node_connection import NodeConnection
from app.ranks.hosts.node_rank import NodeLog, NodePulseReader, NodeRank
from app.ranks.node_port import NodePort
from engines.contract.node_protocol import (
    BEAT_S,
    SILENCE_S,
    AwaitMemory,
    FindMeeting,
    GatewayBeat,
    MeetingFound,
    MemoryDone,
    NodeFacts,
    NodeMessage,
    NoteMemory,
    PulseTaken,
    RankCleared,
    RankEnded,
    RankPrinted,
    RankStarted,
    StartRank,
    encode_node,
)
from engines.contract.spec import LockstepAddress, RankSpec, RankVariables, Share

logger = get_logger("nodes")
START_TIMEOUT_S = 60.0  # for a guardian to be there
RECENT_S = 3 * BEAT_S  # an agent that was heard then is alive
DOUBT_S = SILENCE_S / 2  # of silence: connections of its ranks may break


class NodeState(StrEnum):
    """Where a node is in its life."""

    MISSING = "missing"  # it has not joined yet
    JOINED = "joined"
    LEAVING = "leaving"  # it was asked to end, and its ranks finish what they hold
    LOST = "lost"  # it said that it ends, broke off, or fell silent; it may join again


class NodeHost:
    """A Host."""

    def __init__(self, number: int, ranks: Iterable[int], port: NodePort, epoch: int) -> None:
        self.number = number
        self.state = NodeState.MISSING
        self.facts: NodeFacts | None = None
        self.version: str | None = None
        self.heard_at: float | None = None
        self._was_silent_at = -math.inf  # when it was heard again after a silence, the last time
        self.agent: bytes | None = None  # by which name it is connected
        self.seats = {
            rank: seat for seat, rank in enumerate(ranks)
        }  # among the agent's shares, and then the spare ones
        self._port = port
        self._epoch = epoch
        self._ranks: dict[tuple[int, int], NodeRank] = {}
        self._logs: dict[int, NodeLog] = {}
        self._questions: dict[int, asyncio.Future[MemoryDone | MeetingFound | None]] = {}
        self._numbers = itertools.count(1)

    # -- as the gateway's groups see it

    @property
    def name(self) -> str:
        """Its hostname, once it has joined."""
        return self.facts.name if self.facts else f"node {self.number}"

    @property
    def ray_node_id(self) -> str | None:
        """Of the node that Ray has started its agent on."""
        return self.facts.ray_node_id if self.facts else None

    @property
    def is_present(self) -> bool:
        """Whether it has joined, and stays."""
        return self.state is NodeState.JOINED

    @property
    def is_heard(self) -> bool:
        """Whether its agent was, just now."""
        return self.agent is not None and self._silence_s < RECENT_S

    def may_be_lost(self) -> bool:
        """Whether its agent cannot be reached, or was silent for so long that its ranks may have been cut off."""
        now = time.monotonic()
        is_silent = self._silence_s > DOUBT_S or now - self._was_silent_at < SILENCE_S
        return is_silent or not self.tell(GatewayBeat())

    @property
    def _silence_s(self) -> float:
        return math.inf if self.heard_at is None else time.monotonic() - self.heard_at

    def open(self) -> None:
        """Raises HostLost where it is not there."""
        if not self.is_present:
            raise HostLost(f"node {self.number} is {self.state}")

    def close(self) -> None:
        """Its agent sees the connection end."""

    def share(self, rank: int) -> Share:
        """As its agent has dealt it out."""
        if self.facts is None:
            raise HostLost(f"node {self.number} is {self.state}")
        return [*self.facts.shares, *self.facts.spare][self.seats[rank]]

    async def lockstep_address(self) -> LockstepAddress:
        """The agent finds fresh ports."""
        found = await self._ask(lambda number: FindMeeting(epoch=self._epoch, request=number))
        if not isinstance(found, MeetingFound):
            raise HostLost(f"node {self.number} is {self.state}")
        if found.address is None:
            raise OSError(found.error)
        return found.address

    def connect(self, rank: int, incarnation: int, on_message: OnMessage, on_broken: OnBroken) -> NodeConnection:
        """Through the port that all nodes share."""
        return NodeConnection(self._port, self._port.endpoint, self._epoch, rank, incarnation, on_message, on_broken)

    async def start(self, draft: RankSpec, variables: RankVariables) -> NodeRank:
        """Has the agent start it. Raises OSError."""
        self.open()  # it may be gone again; one that cannot be reached is lost with the next beat, and the rank with it
        rank = NodeRank(draft.rank, draft.incarnation, self.tell, self._ranks)
        try:
            self.tell(StartRank(epoch=self._epoch, spec=draft, variables=variables))
            async with asyncio.timeout(START_TIMEOUT_S):
                await rank.started
        except TimeoutError:
            rank.forget()
            raise OSError(f"node {self.number} did not start it within {START_TIMEOUT_S:g} s") from None
        except BaseException:
            rank.forget()
            raise
        return rank

    def pulse_reader(self) -> NodePulseReader:
        """Asks the agent, which asks its kernel."""
        return NodePulseReader(self._ranks, self.tell)

    def new_log(self, rank: int) -> NodeLog:
        """What the agent sends of it."""
        log = self._logs[rank] = NodeLog()
        return log

    async def take_memory_baseline(self, gpus: Sequence[str]) -> None:
        """The agent notes it."""
        await self._ask(lambda number: NoteMemory(epoch=self._epoch, request=number, gpus=list(gpus)))

    async def await_free_memory(self, gpus: Sequence[str]) -> None:
        """The agent waits for it."""
        await self._ask(lambda number: AwaitMemory(epoch=self._epoch, request=number, gpus=list(gpus)))

    async def _ask(self, make: Callable[[int], NodeMessage]) -> MemoryDone | MeetingFound | None:
        """The agent's answer; None when it is lost, which has nothing left in memory when it is back."""
        number = next(self._numbers)
        answer = self._questions[number] = asyncio.get_running_loop().create_future()
        try:
            return await answer if self.agent is not None and self.tell(make(number)) else None
        finally:
            del self._questions[number]

    # -- as the membership sees it

    def join(self, agent: bytes, version: str, facts: NodeFacts) -> None:
        """It is there, and nothing of ours runs on it yet."""
        self.agent, self.version, self.facts = agent, version, facts
        self.state = NodeState.JOINED
        self.heard_at = time.monotonic()
        self._was_silent_at = -math.inf

    def heard(self) -> None:
        """Its agent has said something."""
        now = time.monotonic()
        if self._silence_s > DOUBT_S:
            self._was_silent_at = now
        self.heard_at = now

    def leave(self) -> None:
        """It was asked to end: what it has is finished, and nothing new is started there."""
        self.state = NodeState.LEAVING

    def lose(self, reason: str) -> None:
        """What ran there is gone."""
        self.state = NodeState.LOST
        self.agent = None
        for rank in list(self._ranks.values()):
            rank.lose(reason)
        for answer in self._questions.values():
            if not answer.done():
                answer.set_result(None)

    def tell(self, message: NodeMessage) -> bool:
        """Whether it is on its way."""
        message.epoch = self._epoch
        return self.agent is not None and self._port.send(self.agent, encode_node(message))

    def hear(self, message: NodeMessage) -> None:
        """What the agent says of its ranks."""
        match message:
            case RankStarted() | RankEnded() | RankCleared() | PulseTaken():
                rank = self._ranks.get((message.rank, message.incarnation))
                if rank is not None:
                    rank.hear(message)
            case RankPrinted():
                log = self._logs.get(message.rank)
                if log is not None:
                    log.take(message)
            case MemoryDone() | MeetingFound():
                answer = self._questions.get(message.request)
                if answer is not None and not answer.done():
                    answer.set_result(message)
            case _:
                pass
