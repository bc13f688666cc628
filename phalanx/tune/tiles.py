"""Tiles of fused MoE: which files of them vLLM misses, and a child process that measures them on a GPU."""

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MISSING = re.compile(rb"[Cc]onfig file not found at ([^\"\\\n]+\.json)")
LONGEST_S = 120.0
SHARE = 0.2  # of the budget
GRACE_S = 120.0  # beyond that: importing, compiling, and vLLM's own choice
VARIABLE = "VLLM_TUNED_CONFIG_FOLDER"


class NoTiles(Exception):
    """None could be measured. The message says why."""


def missing_tiles(log: Path) -> list[str]:
    """The names of the files that vLLM has looked for in vain, by a rank's log. On a CPU it looks for none."""
    try:
        found = MISSING.findall(log.read_bytes())
    except OSError:
        return []
    paths = [path.strip() for paths in found for path in paths.decode(errors="replace").split(", ")]
    return sorted({path.rsplit("/", 1)[-1] for path in paths if "E=" in path})


@dataclass(frozen=True)
class TileFolder:
    """Where a site's files are. `gpu` is as CUDA_VISIBLE_DEVICES names it."""

    folder: Path
    model: str
    revision: str | None
    gpu: str
    seconds: float
    environment: Mapping[str, str]

    def fill(self, names: Sequence[str]) -> None:
        """Measures what is not there yet. Nothing else may use the GPU meanwhile. Raises NoTiles."""
        for name in names:
            if not (self.folder / name).is_file():
                self._measure(name)

    @property
    def variables(self) -> dict[str, str]:
        """By which vLLM finds them."""
        return {VARIABLE: str(self.folder)}

    def _measure(self, name: str) -> None:
        command = [sys.executable, "-P", "-m", "engines", "tune-tiles", "--model", self.model]
        command += ["--file", str(self.folder / name), "--seconds", f"{self.seconds:g}"]
        command += [] if self.revision is None else ["--revision", self.revision]
        gpu = {"CUDA_VISIBLE_DEVICES": self.gpu, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        try:
            done = subprocess.run(  # killed when a signal interrupts this
                command,
                env={**self.environment, **gpu},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self.seconds + GRACE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise NoTiles(f"measuring tiles did not end within {self.seconds + GRACE_S:.0f} s") from None
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            raise NoTiles(f"no tiles could be measured: {last[0]}")
        if done.stdout.split()[-1:] == [b"0"]:
            raise NoTiles("no tiles are clearly faster than vLLM's own")
