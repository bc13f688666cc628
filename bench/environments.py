"""Virtual environments of other people's programs: made when one is first needed, and anew when its pins or Python
change.

A file of requirements pins everything that an environment holds; its first line says what was asked for. To move to
another version, install that into an empty environment, and put its `pip freeze` below the comments. pip runs with the
user's own configuration.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from bench.processes import LOG_TAIL_BYTES, ROOT, MeasurementFailed

STAMP = "requirements.sha256"  # written last: an environment without it was never finished
INSTALL_TIMEOUT_S = 1200

sys.path.insert(0, str(ROOT / "deploy"))

from bootstrapping.machine import TORCH_CPU_INDEX, torch_index_answers  # noqa: E402


def make_environment(requirements: Path, folder: Path) -> Path:
    """The environment of these pins below the folder, named as their file, installed if need be. Raises
    MeasurementFailed."""
    environment = folder / requirements.stem
    stamp = environment / STAMP
    wanted = hashlib.sha256(sys.version.encode() + requirements.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return environment
    shutil.rmtree(environment, ignore_errors=True)
    venv.create(environment, with_pip=True, symlinks=True)
    install = [str(environment / "bin" / "python"), "-I", "-m", "pip", "--no-input", "install", "--quiet"]
    _install([*install, "--requirement", str(requirements), *_torch_index(requirements)], folder)
    stamp.write_text(wanted)
    return environment


def _install(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | {"PIP_USER": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise MeasurementFailed(f"{' '.join(command)} took longer than {INSTALL_TIMEOUT_S} s") from None
    if done.returncode:
        tail = done.stdout[-LOG_TAIL_BYTES:].decode(errors="replace")
        raise MeasurementFailed(f"{' '.join(command)}\nexit code {done.returncode}\n{tail}")


def _torch_index(requirements: Path) -> list[str]:
    """Where torch's CPU build comes from, unless pip's configuration names a folder with its wheel."""
    asks = "+cpu" in requirements.read_text() and torch_index_answers()
    return ["--extra-index-url", TORCH_CPU_INDEX] if asks else []
