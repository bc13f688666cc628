"""The files of a job beside its output, and what may lie there when it begins."""

import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from phalanx.generate.errors import UsageProblem

STANDARD = Path("-")  # input or output


@dataclass(frozen=True)
class Workplace:
    """Where a job keeps what. `is_lasting`: it is there for the next command, as it is unless OUT is `-`."""

    base: Path
    is_lasting: bool

    @property
    def job(self) -> Path:
        """What to go on with."""
        return self._beside("job")

    @property
    def results(self) -> Path:
        """The spool."""
        return self._beside("results")

    @property
    def input(self) -> Path:
        """Standard input, which can be read but once."""
        return self._beside("input")

    @property
    def new_input(self) -> Path:
        """The same, while it is copied."""
        return self._beside("new-input")

    @property
    def part(self) -> Path:
        """The output as it is written."""
        return self._beside("part")

    @property
    def service(self) -> Path:
        """Folder of a service that the command starts itself."""
        return self._beside("service")

    def clear(self) -> None:
        """Removes everything, the job's file first: without it the others mean nothing."""
        for path in (self.job, self.results, self.input, self.new_input, self.part):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.service, ignore_errors=True)
        if not self.is_lasting:
            shutil.rmtree(self.base.parent, ignore_errors=True)

    def _beside(self, what: str) -> Path:
        return self.base.with_name(f"{self.base.name}.phalanx-{what}")


def workplace_of(output: Path) -> Workplace:
    """Beside the output, or in a temporary folder. Raises UsageProblem for a folder that is not there."""
    if output == STANDARD:
        return Workplace(Path(tempfile.mkdtemp(prefix="phalanx-generate-")) / "out", is_lasting=False)
    if not output.parent.is_dir():
        raise UsageProblem(f"the folder {output.parent} does not exist: make it with `mkdir -p {output.parent}`")
    if output.is_dir():
        raise UsageProblem(f"{output} is a folder: name a file in it")
    return Workplace(output, is_lasting=True)


def keep_standard_input(place: Workplace) -> Path:
    """Copies standard input to a file. The former command's copy is replaced."""
    with place.new_input.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return place.new_input.replace(place.input)
