"""A virtual environment for each client, with what requirements/NAME.txt pins (bench/environments.py)."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import environments

ROOT = Path(__file__).parents[2]
REQUIREMENTS = Path(__file__).with_name("requirements")
DEFAULT_FOLDER = ROOT / ".venv-clients"
TAIL_CHARACTERS = 6000


@dataclass(frozen=True)
class Client:
    """A client's environment, and a home for its processes, whose files are nobody else's."""

    environment: Path
    home: Path

    def command(self, program: str, *arguments: str) -> list[str]:
        """One of the programs that the client brought."""
        return [str(self.environment / "bin" / program), *arguments]

    def run(
        self, *command: str, timeout_s: float, cwd: Path | None = None, variables: Mapping[str, str] | None = None
    ) -> str:
        """What a program of the environment printed. Raises AssertionError when it fails or takes longer."""
        return run(
            self.command(*command), timeout_s=timeout_s, cwd=cwd or self.home, variables=self.variables(variables)
        )

    def variables(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of its processes: nothing is fetched from a hub, and nothing of ours is found."""
        return private_variables(self.home) | dict(more or {})


def private_variables(home: Path) -> dict[str, str]:
    """Variables for a process that keeps its files in `home`, and asks the server under test alone."""
    own = ("PATH", "LANG", "LD_LIBRARY_PATH", "LD_PRELOAD")
    variables = {name: value for name, value in os.environ.items() if name in own}
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(home / "huggingface")}
    return variables | offline | {"HOME": str(home), "TMPDIR": str(home), "PYTHONDONTWRITEBYTECODE": "1"}


def run(command: Sequence[str], *, timeout_s: float, cwd: Path, variables: Mapping[str, str]) -> str:
    """What a command printed, stdout and stderr together. Raises AssertionError when it fails or takes longer."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        printed = (error.stdout or b"").decode(errors="replace")
        raise AssertionError(f"{command[0]} took longer than {timeout_s:g} s\n{printed[-TAIL_CHARACTERS:]}") from None
    printed = done.stdout.decode(errors="replace")
    assert done.returncode == 0, f"{' '.join(command)}\nexit code {done.returncode}\n{printed[-TAIL_CHARACTERS:]}"
    return printed


def make_environment(name: str, folder: Path) -> Path:
    """The environment of this client below the folder, installed if need be."""
    return environments.make_environment(REQUIREMENTS / f"{name}.txt", folder)
