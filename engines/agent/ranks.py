"""The ranks of a node, as its agent looks after them for one life of its gateway."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from engines import tasks
from engines.agent.spec import AgentSpec
from engines.contract.node_protocol import (
    AwaitMemory,
    ClearRank,
    EndRank,
    FindMeeting,
    MeetingFound,
    MemoryDone,
    NodeMessage,
    NoteMemory,
    PulseTaken,
    RankCleared,
    RankEnded,
    RankPrinted,
    RankStarted,
    StartRank,
    TakePulse,
)
from engines.contract.spec import RankVariables
from engines.host.machine import Machine, MachineRank
from engines.host.pulse import ProcessPulse, PulseReader
from engines.host.rank_log import LogPart
from engines.logs import get_logger

logger = get_logger("agent")
TAIL_BYTES = 16 * 1024  # of a log that grows
WHOLE_BYTES = 512 * 1024  # of one that is complete: its cause may be far up
Order = StartRank | EndRank | ClearRank | TakePulse | NoteMemory | AwaitMemory | FindMeeting
Key = tuple[int, int]  # rank, incarnation


class _Life:
    """One life of one rank."""

    def __init__(self, log: LogPart) -> None:
        self.log = log
        self.pulse = PulseReader()
        self.process: MachineRank | None = None
        self.is_cut = False
        self.sent_end = ""  # of the log


class AgentRanks:
    """Does what the gateway orders. `tell` sends it an answer, and `on_failure` hears what cannot be answered."""

    def __init__(
        self, spec: AgentSpec, machine: Machine, tell: Callable[[NodeMessage], None], on_failure: tasks.OnFailure
    ) -> None:
        self._spec = spec
        self._machine = machine
        self._tell = tell
        self._on_failure = on_failure
        self._lives: dict[Key, _Life] = {}
        self._working: set[asyncio.Task[None]] = set()

    def obey(self, order: Order) -> None:
        """Begins to do it, and returns at once."""
        match order:
            case StartRank():
                self._begin(self._run(order), f"rank {order.spec.rank}.{order.spec.incarnation}")
            case EndRank():
                self._cut((order.rank, order.incarnation))
            case ClearRank():
                self._begin(self._clear((order.rank, order.incarnation)), f"clear rank {order.rank}")
            case TakePulse():
                self._take_pulse(order)
            case NoteMemory() | AwaitMemory():
                self._begin(self._see_to_memory(order), "GPU memory")
            case FindMeeting():
                self._begin(self._find_meeting(order), "lock-step address")

    def report_logs(self) -> None:
        """Tells what ranks have printed since the last time."""
        for key, life in self._lives.items():
            self._report_log(key, life, TAIL_BYTES)

    async def end(self) -> None:
        """Ends all ranks, and returns once nothing is left of them."""
        for key in list(self._lives):
            self._cut(key)
        while self._working:  # ranks that were being started end, too
            await asyncio.wait(self._working)
        for life in self._lives.values():
            if life.process is not None:
                await life.process.clear_up()
        self._lives.clear()

    @property
    def count(self) -> int:
        """Lives that are not cleared up yet."""
        return len(self._lives)

    async def _run(self, order: StartRank) -> None:
        """One life of a rank, from its start to its end."""
        key = order.spec.rank, order.spec.incarnation
        try:
            self._machine.open()
            life = self._lives[key] = _Life(self._machine.new_log(order.spec.rank))
            own = {"node_keys_file": self._spec.keys_file, "model": self._spec.model or order.spec.model}
            spec = msgspec.structs.replace(order.spec, **own)
            variables = RankVariables(self._spec.network | order.variables.values, order.variables.plugins)
            life.process = await self._machine.start(spec, variables)
        except OSError as error:
            self._lives.pop(key, None)
            self._tell(RankStarted(rank=key[0], incarnation=key[1], error=str(error)))
            return
        if life.is_cut:
            life.process.cut()
        logger.info("rank_started", rank=key[0], incarnation=key[1])
        self._tell(RankStarted(rank=key[0], incarnation=key[1]))
        code = await life.process.wait()
        logger.info("rank_ended", rank=key[0], incarnation=key[1], exit_code=code)
        self._report_log(key, life, WHOLE_BYTES)
        self._tell(RankEnded(rank=key[0], incarnation=key[1], exit_code=code))

    def _cut(self, key: Key) -> None:
        life = self._lives.get(key)
        if life is not None:
            life.is_cut = True
            if life.process is not None:
                life.process.cut()

    async def _clear(self, key: Key) -> None:
        life = self._lives.get(key)
        if life is not None and life.process is not None:
            await life.process.clear_up()
            self._lives.pop(key, None)
        self._tell(RankCleared(rank=key[0], incarnation=key[1]))

    def _take_pulse(self, order: TakePulse) -> None:
        life = self._lives.get((order.rank, order.incarnation))
        if life is None:
            return
        if order.got_on:
            life.pulse.got_on()
        try:
            seen = life.pulse.look(order.title, order.pid, order.engine)
        except OSError as error:  # no file descriptor is left
            logger.warning("pulse_unreadable", rank=order.rank, reason=str(error))
            seen = ProcessPulse()
        self._tell(
            PulseTaken(rank=order.rank, incarnation=order.incarnation, stopped=seen.stopped, is_asleep=seen.is_asleep)
        )

    async def _see_to_memory(self, order: NoteMemory | AwaitMemory) -> None:
        if isinstance(order, NoteMemory):
            await self._machine.take_memory_baseline(order.gpus)
        else:
            await self._machine.await_free_memory(order.gpus)
        self._tell(MemoryDone(request=order.request))

    async def _find_meeting(self, order: FindMeeting) -> None:
        try:
            address = await self._machine.lockstep_address()
        except OSError as error:
            self._tell(MeetingFound(request=order.request, address=None, error=str(error)))
            return
        self._tell(MeetingFound(request=order.request, address=address))

    def _report_log(self, key: Key, life: _Life, size_bytes: int) -> None:
        end = life.log.end(size_bytes)
        if end != life.sent_end:
            life.sent_end = end
            self._tell(RankPrinted(rank=key[0], incarnation=key[1], path=str(Path(life.log.path)), end=end))

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:  # Any: as for asyncio
        task = tasks.start(work, name, self._on_failure)
        self._working.add(task)
        task.add_done_callback(self._working.discard)
