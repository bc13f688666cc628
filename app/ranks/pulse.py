"""What a rank's heartbeats and the kernel say of its progress, taken once a second while its group serves."""

import time
from pathlib import Path

from app.logs import get_logger
from app.ranks.rank import Rank
from app.ranks.stalls import Pulse
from engines.contract.protocol import Status
from engines.host import processes

logger = get_logger("ranks")
HEARTBEAT_S = 1.0  # between two looks, and about what ranks leave between two heartbeats
LOOK_CLOSER_S = 2.0  # without progress, or without a word: only then the kernel is asked
STOPPED = "T"  # by a signal; a debugger's stop is "t", and none of our business


class PulseTaker:
    """Remembers how far one rank was, and since when."""

    def __init__(self, rank: Rank) -> None:
        self.rank = rank
        self._progress: tuple[int, int, int] | None = None  # steps, results, and what was prepared
        self._progress_at = time.monotonic()
        self._cpu_ticks: list[int | None] = [None, None]  # of its engine's processes, and of all, when it last got on
        self._held = 0
        self._group_worked = False
        self._is_blind = False  # whether the kernel could not be asked last time

    def take(self, held: int, *, group_works: bool) -> Pulse:
        """The rank's pulse now; `held` are the items that it holds, and any rank of its group may hold some.

        A rank of a lock-step group that holds none takes part in every step, and may be the one that holds the others
        up.
        """
        rank, now = self.rank, time.monotonic()
        status = rank.status or Status(incarnation=rank.incarnation)
        # Preparing is getting on as long as the engine has nothing; later it would hide that the engine stands still.
        progress = (status.steps, rank.results, 0 if status.given else status.prepared)
        begins = (held and not self._held) or (group_works and not self._group_worked)
        if progress != self._progress or begins:
            self._progress, self._progress_at, self._cpu_ticks = progress, now, [None, None]
        self._held, self._group_worked = held, group_works
        age_s, silence_s = now - self._progress_at, now - rank.heard_at
        stopped, is_asleep = None, False
        if (group_works and age_s > LOOK_CLOSER_S) or silence_s > LOOK_CLOSER_S:
            stopped, is_asleep = self._ask_kernel()
            is_asleep = is_asleep and (status.given > 0 or not held)  # else it is the rank itself that works
        return Pulse(
            rank=rank.number,
            holds_work=held > 0,
            progress_age_s=age_s,
            silence_s=silence_s,
            longest_step_s=status.longest_step_s,
            stopped=stopped,
            is_asleep=is_asleep,
        )

    def _ask_kernel(self) -> tuple[str | None, bool]:
        """The same as `_look_closer`; where that is not possible, only time will tell."""
        try:
            found = self._look_closer()
        except OSError as error:  # no file descriptor is left
            if not self._is_blind:
                logger.warning("pulse_unreadable", **self.rank.ids, reason=str(error))
            self._is_blind = True
            return None, False
        self._is_blind = False
        return found

    def _look_closer(self) -> tuple[str | None, bool]:
        """A process that is stopped, and whether nothing below the rank has used any CPU since it last got on.

        Compilers that the engine has started count as well, but the whole tree is looked at only when the engine's
        own processes sleep: finding it takes milliseconds. Raises OSError.
        """
        engine = self.rank.facts.processes if self.rank.facts else {}
        everyone = dict(engine)
        if self.rank.pid is not None:
            everyone[f"rank {self.rank.number}"] = self.rank.pid
        states = {title: _stat(pid) for title, pid in everyone.items()}
        stopped = next((title for title, (state, _) in states.items() if state == STOPPED), None)
        is_asleep = bool(engine) and self._is_same(0, sum(states[title][1] for title in engine))
        if is_asleep and self.rank.pid is not None:
            below = processes.descendants(self.rank.pid)
            is_asleep = self._is_same(1, sum(_stat(process.pid)[1] for process in below))
        return stopped, is_asleep

    def _is_same(self, which: int, ticks: int) -> bool:
        """Whether these ticks are what they were when the rank last got on."""
        if self._cpu_ticks[which] is None:
            self._cpu_ticks[which] = ticks
        return ticks == self._cpu_ticks[which]


def _stat(pid: int) -> tuple[str, int]:
    """A process's state and the CPU time that it and its dead children used, in ticks; "" and 0 when it is gone.

    Raises OSError when it cannot be read though it is there.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], sum(map(int, fields[11:15]))
    except (FileNotFoundError, ProcessLookupError):
        return "", 0
