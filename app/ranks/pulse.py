"""What a rank's heartbeats and the kernel say of its progress, taken once a second while its group serves."""

import time

from app.logs import get_logger
from app.ranks.hosts.host import ProcessPulseReader
from app.ranks.rank import Rank
from app.ranks.stalls import Pulse
from engines.contract.protocol import Status
from engines.host.pulse import ProcessPulse

logger = get_logger("ranks")
HEARTBEAT_S = 1.0  # between two looks, and about what ranks leave between two heartbeats
LOOK_CLOSER_S = 2.0  # without progress, or without a word: only then the kernel is asked


class PulseTaker:
    """Remembers how far one rank was, and since when."""

    def __init__(self, rank: Rank, reader: ProcessPulseReader) -> None:
        self.rank = rank
        self._reader = reader
        self._progress: tuple[int, int, int] | None = None  # steps, results, and what was prepared
        self._progress_at = time.monotonic()
        self._held = 0
        self._group_worked = False
        self._is_blind = False  # whether the kernel could not be asked last time

    def take(self, held: int, *, group_works: bool) -> Pulse:
        """The rank's pulse now; `held` are the items that it has to work on, and any rank of its group may have some.

        A rank of a lock-step group that holds none takes part in every step, and may be the one that holds the others
        up.
        """
        rank, now = self.rank, time.monotonic()
        status = rank.status or Status(incarnation=rank.incarnation)
        # Preparing is getting on as long as the engine has nothing; later it would hide that the engine stands still.
        progress = (status.steps, rank.results, 0 if status.given else status.prepared)
        begins = (held and not self._held) or (group_works and not self._group_worked)
        if progress != self._progress or begins:
            self._progress, self._progress_at = progress, now
            self._reader.got_on()
        self._held, self._group_worked = held, group_works
        age_s, silence_s = now - self._progress_at, now - rank.heard_at
        seen = ProcessPulse()
        if (group_works and age_s > LOOK_CLOSER_S) or silence_s > LOOK_CLOSER_S:
            seen = self._ask_kernel()
        return Pulse(
            rank=rank.number,
            holds_work=held > 0,
            progress_age_s=age_s,
            silence_s=silence_s,
            longest_step_s=status.longest_step_s,
            stopped=seen.stopped,
            is_asleep=seen.is_asleep and (status.given > 0 or not held),  # else it is the rank itself that works
        )

    def _ask_kernel(self) -> ProcessPulse:
        """What the rank's host says of its processes; where it cannot say, only time will tell."""
        engine = self.rank.facts.processes if self.rank.facts else {}
        try:
            found = self._reader.look(f"rank {self.rank.number}", self.rank.pid, engine)
        except OSError as error:  # no file descriptor is left
            if not self._is_blind:
                logger.warning("pulse_unreadable", **self.rank.ids, reason=str(error))
            self._is_blind = True
            return ProcessPulse()
        self._is_blind = False
        return found
