"""What the kernel says of a rank's processes: whether any was stopped, and whether they use any CPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engines.host import processes

STOPPED = "T"  # by a signal; a debugger's stop is "t", and none of our business


@dataclass(frozen=True)
class ProcessPulse:
    """At one moment: a process that is stopped, by its title, and whether nothing has used any CPU since the last
    `PulseReader.got_on`."""

    stopped: str | None = None
    is_asleep: bool = False


class PulseReader:
    """Looks at the processes of one life of a rank."""

    def __init__(self) -> None:
        self._cpu_ticks: list[int | None] = [None, None]  # of its engine's processes, and of all, when it last got on

    def got_on(self) -> None:
        """The rank has made progress: its CPU time counts from the next look on."""
        self._cpu_ticks = [None, None]

    def look(self, title: str, pid: int | None, engine: Mapping[str, int]) -> ProcessPulse:
        """Of the rank's own process (its title for people; no pid: not known) and of its engine's, by their titles.

        Compilers that the engine has started count as well, but the whole tree is looked at only when the engine's
        own processes sleep: finding it takes milliseconds. Raises OSError where the kernel cannot be asked.
        """
        everyone = dict(engine) | ({} if pid is None else {title: pid})
        states = {name: _stat(number) for name, number in everyone.items()}
        stopped = next((name for name, (state, _) in states.items() if state == STOPPED), None)
        is_asleep = bool(engine) and self._is_same(0, sum(states[name][1] for name in engine))
        if is_asleep and pid is not None:
            is_asleep = self._is_same(1, sum(_stat(process.pid)[1] for process in processes.descendants(pid)))
        return ProcessPulse(stopped, is_asleep)

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
