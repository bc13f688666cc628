"""What a sweep has measured so far, in a file: the same command goes on with it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from engines.contract.tuned import Site
from phalanx.durable_file import write_durably
from phalanx.generate.errors import ServiceProblem, UsageProblem
from phalanx.tune.trials import Candidate, Trial

VERSION = 3
SUFFIX = ".sweep.json"
LOCK = "sweep.lock"
ROOM_BYTES = 16 << 20  # for the service's journal and logs, and for what is measured


class Sweep(msgspec.Struct, kw_only=True):
    """The trials of one workload at one site, in the order in which they were begun."""

    version: int = VERSION
    site: Site
    workload: str  # in words
    fills: int | None = None  # of all sequences in a round; None: not settled yet, or the user says how many items
    trials: list[Trial] = []
    measured_at: str = ""  # when the last start had ended: ISO 8601, UTC

    def of(self, candidate: Candidate) -> Trial | None:
        """What was measured of it."""
        return next((trial for trial in self.trials if trial.candidate == candidate), None)

    def add(self, trial: Trial) -> None:
        """One more start of a candidate."""
        former = self.of(trial.candidate)
        if former is None:
            self.trials.append(trial)
        else:
            former.add(trial)


def sweep_file(folder: Path, site: Site, fingerprint: str) -> Path:
    """Where the sweep of a workload is kept."""
    return folder / f"{site.file_stem}.{fingerprint}{SUFFIX}"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """In the block nobody else goes on with the sweep that has this folder: two at once would measure each other, and
    keep half of what they find. Raises ServiceProblem where somebody does, and OSError for a disk that is full: before
    anything is measured that could not be kept."""
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / LOCK).open("wb") as file:
        _check_room(file.fileno())
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceProblem(
                f"another `phalanx tune` measures this just now, in {folder}: wait until it has ended"
            ) from None
        yield


def _check_room(descriptor: int) -> None:
    os.posix_fallocate(descriptor, 0, ROOM_BYTES)
    os.ftruncate(descriptor, 0)


def read_sweep(path: Path) -> Sweep | None:
    """The sweep that was begun; None for none. Raises UsageProblem for a file that is none of this version's."""
    try:
        sweep = msgspec.json.decode(path.read_bytes(), type=Sweep)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError):
        sweep = None
    if sweep is None or sweep.version != VERSION:
        raise UsageProblem(f"{path} is no sweep of this version of Phalanx: --fresh begins anew")
    return sweep


def write_sweep(path: Path, sweep: Sweep) -> None:
    """Atomically."""
    write_durably(path, msgspec.json.format(msgspec.json.encode(sweep)))
