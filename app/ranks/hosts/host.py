"""Where ranks run. The gateway starts, watches and ends ranks through a host, and never asks where it is.

The life of a rank is two things: a connection, over which it says how it is, and a process, whose end its host sees.
A host may be lost with all that runs on it, and come back, with nothing of that left.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from engines.contract.protocol import FromRank, Message
from engines.contract.spec import GatewayAddress, LockstepAddress, RankSpec, RankVariables, Share
from engines.host.pulse import ProcessPulse

OnMessage = Callable[[FromRank], None]
OnBroken = Callable[[str], None]


class NoRoom(Exception):
    """No machine has room for one more rank. The message says why."""


class HostLost(OSError):
    """The machine is gone, or cannot be reached any more, and what ran there with it."""


class Connection(Protocol):
    """The gateway's end of what it and one life of a rank say to each other."""

    @property
    def address(self) -> GatewayAddress:
        """Where the rank finds it."""

    def send(self, message: Message) -> None:
        """A message to the rank; dropped when it is not connected."""

    async def hear_out(self) -> None:
        """Handles what the rank had said before its process ended; to be called after that."""

    def close(self) -> None:
        """May be called twice."""


class HostedRank(Protocol):
    """The processes of one life of a rank, as their host sees them."""

    async def wait(self) -> int:
        """Until they have ended; the rank's exit code, 128 + n when signal n ended it. Negative when whoever was to
        clean up behind it was killed: `clear_up` makes up for that. Raises HostLost."""

    def cut(self) -> None:
        """Ends them without asking. May be called twice."""

    async def end(self) -> None:
        """Ends them without asking, and waits, unless the host is lost."""

    async def clear_up(self) -> None:
        """Returns once nothing of them is left: to be called when all ranks of the group have ended."""


class ProcessPulseReader(Protocol):
    """See engines/host/pulse.py."""

    def got_on(self) -> None:
        """The rank has made progress."""

    def look(self, title: str, pid: int | None, engine: Mapping[str, int]) -> ProcessPulse:
        """What the kernel of its host says of a rank's processes. Raises OSError where it cannot be asked."""


class RankLogView(Protocol):
    """What one life of a rank has printed."""

    @property
    def path(self) -> str:
        """The file, on the rank's machine."""

    def end(self, size_bytes: int) -> str:
        """As much as that of what was printed last; nothing where it cannot be read."""


class Host(Protocol):
    """One machine that ranks run on."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def number(self) -> int:
        """Of the node."""

    @property
    def ray_node_id(self) -> str | None:
        """Of the node that Ray has chosen; None where it does not."""

    @property
    def is_present(self) -> bool:
        """Whether ranks can be started there now."""

    @property
    def is_heard(self) -> bool:
        """Whether it was heard just now. Of the ranks on one that was not, nothing is known."""

    def may_be_lost(self) -> bool:
        """Whether the machine, or the way to it, may be to blame for the end of a rank there."""

    def open(self) -> None:
        """Makes it ready for ranks. Raises OSError."""

    def close(self) -> None:
        """Forgets it; no rank must run there. May be called twice."""

    def share(self, rank: int) -> Share:
        """The part of the host that the rank has. Raises HostLost where it is not known."""

    async def lockstep_address(self) -> LockstepAddress:
        """Where a lock-step group can meet whose rank 0 runs here. Raises OSError when no port is free."""

    def connect(self, rank: int, incarnation: int, on_message: OnMessage, on_broken: OnBroken) -> Connection:
        """For one life of a rank. Raises OSError."""

    async def start(self, draft: RankSpec, variables: RankVariables) -> HostedRank:
        """Starts a rank. The host fills in what only it knows: the rank's folder and its log. Raises OSError."""

    def pulse_reader(self) -> ProcessPulseReader:
        """For one life of a rank."""

    def new_log(self, rank: int) -> RankLogView:
        """Of the rank's next life. Raises OSError."""

    async def take_memory_baseline(self, gpus: Sequence[str]) -> None:
        """Notes the memory in use on these GPUs, before any rank of a group was started."""

    async def await_free_memory(self, gpus: Sequence[str]) -> None:
        """Returns once no more of it is in use than then, or after a while."""
