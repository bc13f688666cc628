"""`--local MODEL`: a `phalanx serve` of the job's own, with its journal beside the output, for as long as the job runs.

The folder is locked by whoever serves from it, so that a command that comes right after a kill waits until the former
service has ended.
"""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

from phalanx.address import authorization
from phalanx.generate.errors import JobError, ServiceProblem, UsageProblem
from phalanx.service_flags import DASHES

POLL_S = 0.1
FORMER_TIMEOUT_S = 120.0  # for a former service to end
STOP_TIMEOUT_S = 120.0
LISTEN_TIMEOUT_S = 60.0
HEALTH_TIMEOUT_S = 10.0
JOURNAL_URL = "PHALANX_JOURNAL_URL"  # of the operator's service, whose batches are not this one's
LOG_LEVEL = "--log-level", "PHALANX_LOG_LEVEL"


class LocalService:
    """The service, from its start until the block ends. `url` is there once it is ready: any rank of it, or with
    `with_all_ranks` every one. Raises JobError."""

    def __init__(
        self,
        folder: Path,
        model: str,
        flags: tuple[str, ...],
        say: Callable[[str], None],
        stage: Callable[[str], None],
        environ: Mapping[str, str],
        *,
        with_all_ranks: bool = False,
    ) -> None:
        self.url = ""
        self._with_all_ranks = with_all_ranks
        self._folder = folder
        end = flags.index(DASHES) if DASHES in flags else len(flags)
        self._arguments = ["serve", model, "--host", "127.0.0.1", "--port", "0"]
        self._arguments += ["--data-dir", str(folder / "journal"), *flags[:end]]
        # Last, so that they count: by its log it is known where it listens.
        self._arguments += ["--log-format", "json", "--log-level", _log_level(flags[:end], environ), *flags[end:]]
        self._environ = {name: value for name, value in environ.items() if name != JOURNAL_URL}
        self._log = folder / "gateway.log"
        self._log_start = 0
        self._say = say
        self._stage = stage
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        try:
            self._start()
            self._say(f"starting a service of its own; its log is {self._log}")
            self.url = self._when_it_listens()
            self._wait_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def check(self) -> None:
        """Raises JobError when it has ended."""
        code = None if self._process is None else self._process.poll()
        if code is not None:
            raise self._ended(code)

    def metrics(self, api_key: str | None) -> str:
        """In Prometheus' text format. Raises ServiceProblem."""
        try:
            answer = httpx.get(
                f"{self.url}/metrics", headers=authorization(api_key), timeout=HEALTH_TIMEOUT_S, trust_env=False
            )
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise ServiceProblem(f"the service does not tell its metrics ({error}): see {self._log}") from error
        return answer.text

    def _start(self) -> None:
        command = [sys.executable, "-P", "-m", "phalanx.generate.tether", str(os.getpid()), *self._arguments]
        with (self._folder / "lock").open("wb") as lock, self._log.open("ab") as log:
            self._wait_for_lock(lock.fileno())
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
                pass_fds=[lock.fileno()],
                start_new_session=True,  # Ctrl-C is for the command, which stops it in order
            )

    def _wait_for_lock(self, descriptor: int) -> None:
        deadline = time.monotonic() + FORMER_TIMEOUT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._stage("waiting for the former service to end")
            else:
                return
            if time.monotonic() > deadline:
                raise ServiceProblem(f"a former service still runs on {self._folder}: end it, see {self._log}")
            time.sleep(POLL_S)

    def _when_it_listens(self) -> str:
        deadline = time.monotonic() + LISTEN_TIMEOUT_S
        while time.monotonic() < deadline:
            for event in self._events():
                if event.get("event") == "gateway_listening":
                    return str(event["address"])
            self.check()
            time.sleep(POLL_S)
        raise ServiceProblem(f"the service does not listen after {LISTEN_TIMEOUT_S:.0f} s: see {self._log}")

    def _wait_ready(self) -> None:
        is_up = ("ok",) if self._with_all_ranks else ("ok", "degraded")
        with httpx.Client(base_url=self.url, timeout=HEALTH_TIMEOUT_S, trust_env=False) as http:
            while True:
                self.check()
                try:
                    health = http.get("/health/ready").json()
                except httpx.TransportError:
                    health = {}
                if health.get("status") in is_up:
                    return
                if why := _hopeless(health, self._with_all_ranks):
                    raise ServiceProblem(f"{why} (its log is {self._log})")
                self._stage(f"starting the service: {health.get('reason', 'it does not answer yet')}")
                time.sleep(POLL_S)

    def _stop(self) -> None:
        if self._process is None:
            return
        self._stage("stopping the service")
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ended(self, code: int) -> JobError:
        """The error for a service that ended by itself, with its last words."""
        last = [line.removeprefix("phalanx: ") for line in self._lines() if line.startswith("phalanx: ")]
        reason = " ".join(last[-3:]) or f"it ended with exit code {code}"
        if code == UsageProblem.exit_code:
            return UsageProblem(f"the service cannot start: {reason}")
        return ServiceProblem(f"the service has ended: {reason} (its log is {self._log})")

    def _events(self) -> Iterator[dict[str, Any]]:  # Any: JSON
        for line in self._lines():
            if line.startswith("{") and line.endswith("}"):
                yield msgspec.json.decode(line)

    def _lines(self) -> list[str]:
        """What this one has printed."""
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace").splitlines()


def _log_level(flags: Sequence[str], environ: Mapping[str, str]) -> str:
    """More than this service needs to be understood is had if it was asked for, and less is not."""
    flag, variable = LOG_LEVEL
    wanted = [environ.get(variable, "")]
    for given, after in zip_longest(flags, flags[1:], fillvalue=""):
        name, equals, value = given.partition("=")
        wanted += [value if equals else after] if name == flag else []
    return "debug" if wanted[-1].strip().lower() == "debug" else "info"


def _hopeless(health: dict[str, Any], with_all_ranks: bool) -> str | None:
    """Why it will not be ready: all ranks are broken, or one of those that all are needed."""
    ranks = health.get("ranks") or []
    broken = [rank for rank in ranks if rank["state"] == "broken"]
    if not broken or (len(broken) < len(ranks) and not with_all_ranks):
        return None
    which = "no rank of the service can" if len(broken) == len(ranks) else f"rank {broken[0]['rank']} cannot"
    return f"{which} start: {broken[0].get('last_error') or health.get('reason')}"
