"""A virtual environment for each client: made when it is first needed, and anew when its pins or Python change.

requirements/NAME.txt pins everything that one holds; its first line says what was asked for. To move a client to
another version, install that into an empty environment, and put its `pip freeze` below the comments. pip runs with the
user's own configuration.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
REQUIREMENTS = Path(__file__).with_name("requirements")
DEFAULT_FOLDER = ROOT / ".venv-clients"
STAMP = "requirements.sha256"  # written last: an environment without it was never finished
INSTALL_TIMEOUT_S = 1200
TAIL_CHARACTERS = 6000

sys.path.insert(0, str(ROOT / "deploy"))

from bootstrapping.machine import TORCH_CPU_INDEX, torch_index_answers  # noqa: E402


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
    requirements, environment = REQUIREMENTS / f"{name}.txt", folder / name
    stamp = environment / STAMP
    wanted = hashlib.sha256(sys.version.encode() + requirements.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return environment
    shutil.rmtree(environment, ignore_errors=True)
    venv.create(environment, with_pip=True, symlinks=True)
    install = [str(environment / "bin" / "python"), "-I", "-m", "pip", "--no-input", "install", "--quiet"]
    pins = ["--requirement", str(requirements), *_torch_index(requirements)]
    run([*install, *pins], timeout_s=INSTALL_TIMEOUT_S, cwd=folder, variables=os.environ | {"PIP_USER": "0"})
    stamp.write_text(wanted)
    return environment


def _torch_index(requirements: Path) -> list[str]:
    """Where torch's CPU build comes from, unless pip's configuration names a folder with its wheel."""
    asks = "+cpu" in requirements.read_text() and torch_index_answers()
    return ["--extra-index-url", TORCH_CPU_INDEX] if asks else []
