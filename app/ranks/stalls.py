"""Whether a group that holds work stands still: decided from its ranks' heartbeats and what the kernel says of them.

A stall is no step, while work is held, for the configured time, or ten times the longest step that the group has made
if that is longer: a long prefill or a first compilation is slow, and no stall. A process that was stopped by a signal,
or processes that use no CPU at all, shorten the wait: they will not get on by being waited for. A rank whose own
process was stopped is found by its silence, held work or not: whoever asks it something waits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

LONGEST_STEPS = 10  # times the longest step seen
STOPPED_S = 5.0  # without a step, when a process of the group is in state T
ASLEEP_SHARE = 0.25  # of the whole limit, when no process of the group uses any CPU
SILENT_HEARTBEATS = 20  # that a rank may miss before its process counts as not there


@dataclass(frozen=True)
class Pulse:
    """What is known of one rank of a ready group at one moment. Times are seconds."""

    rank: int
    holds_work: bool
    progress_age_s: float  # since its last step or result, or since it got work after having had none
    silence_s: float  # since its last heartbeat
    longest_step_s: float
    stopped: str | None = None  # a process of it that was stopped, in words
    is_asleep: bool = False  # none of its processes has used CPU since the last step


@dataclass(frozen=True)
class Stall:
    """The rank at which a group stands still, and how that was found."""

    rank: int
    reason: str


def find_stall(pulses: Sequence[Pulse], stall_timeout_s: float, heartbeat_s: float) -> Stall | None:
    """The rank of a group that stands still, and how that was found; None while all get on."""
    limit_s = max(stall_timeout_s, LONGEST_STEPS * max(pulse.longest_step_s for pulse in pulses))
    stopped = next((pulse.stopped for pulse in pulses if pulse.stopped), None)
    all_asleep = all(pulse.is_asleep for pulse in pulses)
    for pulse in pulses:
        silent = f"it has not said a word for {pulse.silence_s:.0f} s"
        if pulse.stopped and pulse.silence_s > min(STOPPED_S, limit_s):
            return Stall(pulse.rank, f"{silent}: {pulse.stopped} was stopped")
        if pulse.silence_s > max(SILENT_HEARTBEATS * heartbeat_s, limit_s):
            return Stall(pulse.rank, silent)
        if not pulse.holds_work:
            continue
        age_s = pulse.progress_age_s
        still = f"it holds work and has made no step for {age_s:.0f} s"
        if stopped and age_s > min(STOPPED_S, limit_s):
            return Stall(pulse.rank, f"{still}: {stopped} was stopped")
        if all_asleep and age_s > ASLEEP_SHARE * limit_s:
            return Stall(pulse.rank, f"{still}, and none of its processes uses any CPU")
        if age_s > limit_s:
            return Stall(pulse.rank, f"{still} (--stall-timeout-s {stall_timeout_s:g})")
    return None
