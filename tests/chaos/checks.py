"""What must hold after every round: one result for every item, and everything as it was before."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from app.journal.sql.engines import READERS
from tests.chaos.plan import PlannedBatch, Round
from tests.nodes import Agent
from tests.service import Json, Service, until

SETTLED_S = 180.0  # on a slow machine
RETRY_S = 0.05
PATIENCE_S = 180.0  # for whatever has to come to an end; the same
SPARE_TASKS = 3
SPARE_DESCRIPTORS = 3 + 2 * (READERS - 1)  # the journal opens a connection, of two files, when all others are in use
SPARE_MIB = 32  # for what Python keeps once it has had it
SHARED_MEMORY = Path("/dev/shm")


class Broken(AssertionError):
    """A promise that was not kept."""


@dataclass(frozen=True)
class Footprint:
    """What a gateway or an agent that has nothing to do takes up."""

    processes: int
    descriptors: int
    tasks: float  # 0 for an agent, which does not tell
    shared_memory: int  # files of ranks that are no more
    memory_mib: float

    @classmethod
    def of(cls, party: Service | Agent) -> "Footprint":
        """Now."""
        process = psutil.Process(party.process.pid)
        return cls(
            len(party.processes()),
            process.num_fds(),
            party.metric("phalanx_asyncio_tasks") if isinstance(party, Service) else 0.0,
            left_in_shared_memory(runtimes(party)),
            process.memory_info().rss / 2**20,
        )

    def exceeds(self, other: "Footprint") -> bool:
        """Whether it is more than the other, but for a connection or two of the one who looks."""
        return (
            self.processes != other.processes
            or self.descriptors > other.descriptors + SPARE_DESCRIPTORS
            or self.tasks > other.tasks + SPARE_TASKS
            or self.shared_memory > other.shared_memory
            or self.memory_mib > other.memory_mib + SPARE_MIB
        )


def runtimes(party: Service | Agent) -> list[str]:
    """The names of its ranks' private folders, which those of their shared memory begin with."""
    return [folder.name for folder in party.folder.glob("phalanx-*")]


def left_in_shared_memory(names: Iterable[str]) -> int:
    """Files of ranks that are no more. Their names end with their process's number."""
    owners = [path.name.rpartition("-")[2] for name in names for path in SHARED_MEMORY.glob(f"{name}-*")]
    return sum(not psutil.pid_exists(int(owner)) for owner in owners)


def check_answer(planned: PlannedBatch, answer: Json, played: Round) -> int:
    """Exactly one result for every item, and the right one. Returns the number of innocents that were convicted."""
    results = answer["results"]
    if [result["index"] for result in results] != list(range(len(planned.prompts))):
        raise Broken(f"not one result for each item: {[result['index'] for result in results]}")
    convicted = 0
    for result in results:
        code = result["error"]["code"] if "error" in result else None
        if result["status"] == "ok":
            if result["index"] in planned.poisoned:
                raise Broken(f"a poisoned item is ok: {result}")
        elif code == "poisoned" and result["index"] not in planned.poisoned:
            convicted += 1
        elif not _may_fail(planned, result["status"], code, played):
            raise Broken(f"{result['status']} ({code}) for an item that should be ok: {result}")
    if convicted and not played.may_convict_wrongly:
        raise Broken(f"{convicted} innocents were convicted")
    return convicted


def _may_fail(planned: PlannedBatch, status: str, code: str | None, played: Round) -> bool:
    return (
        (status == "timeout" and planned.timeout_s is not None)
        or (status == "cancelled" and planned.in_background and planned.hang_up_s is not None)
        or code == "poisoned"
        or (played.ends_gateway and code == "shutting_down" and not planned.in_background)
    )


def settle(service: Service, before: Sequence[Footprint], measure: Callable[[], Sequence[Footprint]]) -> None:
    """Waits until all is well and as it was. Raises AssertionError, naming what is not."""
    until(lambda: service.health()["status"] == "ok", "not all ranks are ready again", SETTLED_S)
    until(service.is_idle, "something still waits or runs", SETTLED_S)
    until(lambda: not service.metric("phalanx_detached_batches"), "batches in the background are open", SETTLED_S)
    seen: list[Sequence[Footprint]] = []

    def is_back() -> bool:
        seen.append(measure())
        return not any(now.exceeds(then) for now, then in zip(seen[-1], before, strict=True))

    try:
        until(is_back, "it takes up more than before", 15)
    except AssertionError as error:
        raise Broken(f"{error}: {before} and now {seen[-1]}") from error
    for rank in service.ranks():
        if rank["suspects"] or rank["held"]:
            raise Broken(f"rank {rank['rank']} holds something: {rank}")
