"""NVIDIA's Multi-Process Service: with it the ranks of one GPU compute at the same time, without it they take turns.

Its control daemon runs below a guardian of its own (engines/host/mps_guardian.py), so that it ends with whoever started
it, however that ends. Where an administrator runs one already, its variables are in the environment, and that is used.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from engines.contract.spec import FAREWELL
from engines.logs import get_logger

logger = get_logger("ranks")
CONTROL = "nvidia-cuda-mps-control"
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
FOLDER = "mps"
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.05


def is_given(environ: Mapping[str, str]) -> bool:
    """Whether somebody else's daemon is to be used."""
    return PIPES in environ


def variables(folder: Path) -> dict[str, str]:
    """By which a daemon and its clients find each other."""
    return {PIPES: str(folder / "pipes"), LOGS: str(folder / "logs")}


class Mps:
    """The control daemon of one host of ranks."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        # All GPUs, by NVML's numbers: a daemon that sees fewer numbers those anew, for its clients too.
        self._environ = {name: value for name, value in environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        self._environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        self._guardian: subprocess.Popen[bytes] | None = None
        self._lifeline: int | None = None
        self._folder: Path | None = None
        self._starting = asyncio.Lock()  # ranks start side by side

    async def ensure(self, runtime: Path) -> dict[str, str]:
        """Starts it, or anew if it has ended or its folder is gone. What its clients need to know. Raises OSError."""
        if is_given(self._environ):
            return {}
        async with self._starting:
            if not await self._is_well():
                await self._start(runtime)
        return variables(runtime / FOLDER)

    def close(self) -> None:
        """Ends it, and waits. May be called twice."""
        lifeline, self._lifeline = self._lifeline, None
        if lifeline is not None:
            with contextlib.suppress(BrokenPipeError):  # it has ended already
                os.write(lifeline, FAREWELL)
            os.close(lifeline)
        guardian, self._guardian = self._guardian, None
        if guardian is not None:
            try:
                guardian.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                guardian.kill()
                guardian.wait()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _start(self, runtime: Path) -> None:
        if self._guardian is not None:
            logger.warning("mps_restarted", folder=str(self._folder))
        folder = self._folder = runtime / FOLDER
        await asyncio.to_thread(self.close)
        guardian = self._guardian = await asyncio.to_thread(self._spawn, folder)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not await self._answers():
            if guardian.poll() is not None or time.monotonic() > deadline:
                said = await asyncio.to_thread(_last_words, folder / "logs" / "control.log")
                await asyncio.to_thread(self.close)
                raise OSError(
                    f"NVIDIA's MPS does not start ({said}): mend it, or say --no-mps, and the ranks of a GPU take turns"
                )
            await asyncio.sleep(POLL_S)
        logger.info("mps_started", folder=str(folder))

    def _spawn(self, folder: Path) -> "subprocess.Popen[bytes]":
        for name in variables(folder).values():
            Path(name).mkdir(mode=0o700, parents=True)
        lifeline_end, self._lifeline = os.pipe()  # both close-on-exec
        try:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "engines", "mps", str(folder)],
                stdin=lifeline_end,
                env=self._environ | variables(folder),
            )
        finally:
            os.close(lifeline_end)

    async def _is_well(self) -> bool:
        return self._guardian is not None and self._guardian.poll() is None and await self._answers()

    async def _answers(self) -> bool:
        """Whether the daemon takes a command."""
        folder = self._folder
        return folder is not None and await asyncio.to_thread(
            ask, b"get_server_list\n", STOP_TIMEOUT_S, self._environ | variables(folder)
        )


def ask(command: bytes, timeout_s: float, environ: Mapping[str, str] | None = None) -> bool:
    """Whether the daemon takes a command; that of this process's own environment where none is given. Raises OSError
    where the program is missing."""
    # Not as a process of asyncio: without a daemon the program ends so early that uvloop finds its stdin closed.
    try:
        asked = subprocess.run(
            [CONTROL], input=command, capture_output=True, env=environ, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return asked.returncode == 0


def _last_words(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        return "it has written no log"
    return next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")
