"""The sides of `python -m bench peers`: Phalanx with simulated ranks, LitServe, and a bare FastAPI application. All
have two workers behind one HTTP process, and take the same request at the same path."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx

from bench.environments import make_environment
from bench.phalanx_server import PhalanxServer
from bench.processes import Child, MeasurementFailed, accepting_pid, free_port, wait_ready

REQUIREMENTS = Path(__file__).with_name("requirements") / "litserve.txt"
START_TIMEOUT_S = 120.0
STOP_GRACE_S = 20.0
WORKERS = 2
WARNED = "-W", "ignore::DeprecationWarning"


@dataclass(frozen=True)
class Pace:
    """How fast the workers are."""

    slots: int  # items that each runs at once
    step_ms: float  # 0: items are answered at once


class Side(Protocol):
    """A service that is started for each round, and stopped after it."""

    name: str
    versions: str  # of what it is made of

    @property
    def url(self) -> str:
        """While it runs."""

    def start(self, pace: Pace) -> None:
        """Returns once it answers. Raises MeasurementFailed."""

    def stop(self) -> None:
        """Leaves no process behind. May be called twice."""

    @property
    def root_pid(self) -> int:
        """The process that all others are below."""

    @property
    def http_pid(self) -> int:
        """The process that speaks HTTP."""


class PhalanxSide:
    """The gateway, as `python -m bench gateway` starts it."""

    name = "Phalanx"

    def __init__(self, folder: Path) -> None:
        self.versions = _versions(Path(sys.executable), ("phalanx", "uvicorn", "uvloop", "httptools", "pyzmq"))
        self._folder = folder
        self._server: PhalanxServer | None = None

    @property
    def url(self) -> str:
        return self._running.url

    @property
    def root_pid(self) -> int:
        return self._running.pids[0]

    @property
    def http_pid(self) -> int:
        return self._running.pids[0]

    def start(self, pace: Pace) -> None:
        arguments = json.dumps({"max_num_seqs": pace.slots, "step_ms": pace.step_ms})
        flags = ["--engine", "simulated", "--dp-size", str(WORKERS), "--engine-args", arguments]
        self._server = PhalanxServer(flags, self._folder)
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()

    @property
    def _running(self) -> PhalanxServer:
        assert self._server is not None
        return self._server


class ServiceSide:
    """A program of bench/peer_services."""

    def __init__(
        self, name: str, python: Path, packages: Sequence[str], module: str, flags: Sequence[str], folder: Path
    ) -> None:
        self.name = name
        self.url = ""
        self.versions = _versions(python, packages)
        self._command = [str(python), *WARNED, "-P", "-m", f"bench.peer_services.{module}", *flags]
        self._folder = folder
        self._child: Child | None = None
        self._http_pid = 0

    @property
    def root_pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    @property
    def http_pid(self) -> int:
        return self._http_pid

    def start(self, pace: Pace) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [*self._command, "--port", str(port), "--workers", str(WORKERS)]
        command += ["--slots", str(pace.slots), "--step-ms", str(pace.step_ms)]
        temporary = self._folder / "tmp"  # what its processes leave there goes with the folder
        temporary.mkdir(exist_ok=True)
        log = self._folder / f"{self.name.replace(' ', '-')}.log"
        self._child = child = Child(command, log, os.environ | {"TMPDIR": str(temporary)})
        with httpx.Client(base_url=self.url, trust_env=False) as client:
            wait_ready(child, lambda: _is_up(client), START_TIMEOUT_S)
            self._http_pid = accepting_pid(child.pid, port)

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop(STOP_GRACE_S)
            self._child = None


def _is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


class MissingSide:
    """One that cannot be started, and says why whenever it is asked to."""

    url = ""
    root_pid = http_pid = 0
    versions = "missing"

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self._reason = reason

    def start(self, pace: Pace) -> None:
        raise MeasurementFailed(self._reason)

    def stop(self) -> None:
        pass


def bare(folder: Path) -> ServiceSide:
    """In this very environment."""
    packages = ("fastapi", "uvicorn", "uvloop", "httptools")
    return ServiceSide("FastAPI + Queue", Path(sys.executable), packages, "bare", [], folder)


def litserve(form: str, environments: Path, folder: Path) -> Side:
    """In an environment of its own, which is made if need be. `form` is one of its program's, with `+zmq` behind it for
    its fast queue."""
    name = f"LitServe {form}"
    environments.mkdir(parents=True, exist_ok=True)
    try:
        python = make_environment(REQUIREMENTS, environments) / "bin" / "python"
    except MeasurementFailed as error:
        return MissingSide(name, str(error))
    kind, _, queue = form.partition("+")
    flags = ["--form", kind, *(["--fast-queue"] if queue else [])]
    return ServiceSide(name, python, ("litserve", "fastapi", "uvicorn", "uvloop", "httptools"), "lit", flags, folder)


def _versions(python: Path, packages: Sequence[str]) -> str:
    """Of packages in an environment."""
    program = (
        "import sys, importlib.metadata as m; print(*(f'{name} {m.version(name)}' for name in sys.argv[1:]), sep=', ')"
    )
    command = [str(python), "-I", "-c", program, *packages]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
