"""The gateway's end of its Ray driver: one process, started, listened to and ended."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from app.ranks.hosts.ray.messages import (
    LOCAL,
    MOST_LINE_BYTES,
    Connect,
    Connected,
    FromDriver,
    Refused,
    ToDriver,
    as_line,
    read_from_driver,
)

CONNECT_TIMEOUT_S = 90.0  # a cluster of its own has to start, or a process of the head's for a client
NODE_TIMEOUT = {"RAY_gcs_server_request_timeout_seconds": "20"}  # below it, for a node of the cluster to be here
SILENCE_S = 15.0  # of a driver: the head of its cluster is away
STOP_TIMEOUT_S = 20.0  # for agents and driver to end


class DriverLost(Exception):
    """The driver has ended, or says nothing. `is_refusal`: there is no such cluster, or none that can be used."""

    def __init__(self, reason: str, *, is_refusal: bool = False) -> None:
        super().__init__(reason)
        self.is_refusal = is_refusal


class DriverProcess:
    """One life of a driver. What it prints beside messages goes to `log_file`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._killed = False

    @classmethod
    async def start(cls, address: str, environ: Mapping[str, str], log_file: Path) -> "DriverProcess":
        """Starts it. Raises OSError."""
        log_file.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "app.ranks.hosts.ray.driver",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=NODE_TIMEOUT | dict(environ) if address != LOCAL else environ,
                limit=MOST_LINE_BYTES,
            )
        finally:
            os.close(log)
        driver = cls(process)
        driver._write(as_line(Connect(address=address)))
        return driver

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    async def meet(self) -> Connected:
        """Once it is part of the cluster. Raises DriverLost."""
        found = await self._read(
            CONNECT_TIMEOUT_S, "whoever listens there has not answered as the head of a Ray cluster"
        )
        if isinstance(found, Refused):
            raise DriverLost(found.reason, is_refusal=True)
        if not isinstance(found, Connected):
            raise DriverLost("the Ray driver speaks out of turn")
        return found

    async def listen(self, on_message: Callable[[FromDriver], None]) -> DriverLost:
        """Hands over what it says, until it is lost, and returns how."""
        while True:
            try:
                message = await self._read(SILENCE_S, "the head of the Ray cluster has not answered")
            except DriverLost as lost:
                return lost
            on_message(message)

    def send(self, message: ToDriver) -> None:
        """An order; dropped when it is gone."""
        self._write(as_line(message))

    async def stop(self) -> None:
        """Ends it and what it has in the cluster. May be called twice."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._drain()
                await self._process.wait()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """Ray ends what belongs to it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def _drain(self) -> None:
        """It must not wait for somebody to read what it says."""
        while self._process.stdout is not None and await self._process.stdout.read(65536):
            pass

    async def _read(self, timeout_s: float, silence: str) -> FromDriver:
        """`silence`: what it means."""
        began = time.monotonic()
        assert self._process.stdout is not None  # noqa: S101  it was started with a pipe
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._process.stdout.readline()
        except TimeoutError:
            waited = f"{time.monotonic() - began:.0f} s"
            words = f"{silence} for {waited}: see that it runs, and can be reached"
            raise DriverLost(words, is_refusal=True) from None
        if not line.endswith(b"\n"):
            raise DriverLost("the Ray driver has ended")
        try:
            return read_from_driver(line)
        except msgspec.DecodeError as error:
            raise DriverLost(f"the Ray driver says what is no message: {error}") from None

    def _write(self, line: bytes) -> None:
        with contextlib.suppress(OSError):
            if self._process.stdin is not None and not self._process.stdin.is_closing():
                self._process.stdin.write(line)
