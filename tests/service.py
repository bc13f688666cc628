"""Starts the service as a user would, and looks that nothing of it is left afterwards.

Each one has a folder of its own, which is also where its processes stand (cwd): whatever is still found there at the
end was left behind.
"""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from bench.phalanx_server import lags_of

COMMAND = str(Path(sys.executable).with_name("phalanx"))
DEADLINE_S = 120.0  # for anything that takes a second or two on an idle machine
START_DEADLINE_S = 600.0  # real engines need 20 to 60 s, on an idle machine
POLL_S = 0.02
STAYS_DOWN = ("--restart-backoff-s", "1h", "--max-restart-backoff-s", "1h")  # a group that failed, until restarted
BATCH = "/v1/batch_generate"
Json = dict[str, Any]
T = TypeVar("T")


def until(look: Callable[[], T], what: str, deadline_s: float = DEADLINE_S) -> T:
    """What `look` finds, as soon as it finds something."""
    deadline = time.monotonic() + deadline_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"after {deadline_s:g} s: {what}"
        time.sleep(POLL_S)
    return found


class Pending:
    """A batch that was sent and whose answer nobody has read yet."""

    def __init__(self, host: str, port: int, request: Json, headers: dict[str, str]) -> None:
        self.is_accepted = False  # once its status has been read
        self._connection = http.client.HTTPConnection(host, port, timeout=DEADLINE_S)
        self._connection.request("POST", BATCH, json.dumps(request), {"Content-Type": "application/json"} | headers)

    def answer(self) -> Json:
        """Waits for it."""
        return self.outcome()[1]

    def outcome(self) -> tuple[int, Json]:
        """Waits for it: its status, and the answer."""
        with self._connection.getresponse() as response:
            self.is_accepted = response.status == 200
            status, answer = response.status, as_object(response.read().decode())
        self.hang_up()
        return status, answer

    def hang_up(self) -> None:
        """Goes away. May be called twice."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()


class Service:
    """A running `phalanx serve`, of simulated ranks unless told otherwise. Flags may come twice: the last counts.

    `api_key` is what its client shows. The environment of whoever runs the tests has no say; `variables` has.
    """

    def __init__(
        self,
        *flags: str,
        engine: str = "simulated",
        dp_size: int = 2,
        api_key: str | None = None,
        variables: dict[str, str] | None = None,
        program: tuple[str, ...] = (COMMAND,),
        **engine_args: Any,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="px-", dir="/tmp"))  # short: sockets lie below it
        self.errors_expected = False  # whether its log may hold errors
        arguments = ["--engine", engine, "--port", "0", "--dp-size", str(dp_size), "--log-format", "json"]
        self._command = [*program, "serve", "--no-tuned", *arguments, "--engine-args", json.dumps(engine_args), *flags]
        self._variables = variables or {}
        self._headers = bearer(api_key) if api_key else {}
        self._log = self.folder / "gateway.log"
        self.process: subprocess.Popen[bytes]
        self.client = httpx.Client()

    def start(self) -> None:
        """Until it listens."""
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PHALANX_")}
        variables |= {"TMPDIR": str(self.folder), "XDG_STATE_HOME": str(self.folder / "state")} | self._variables
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command, cwd=self.folder, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        (listening,) = until(lambda: self.facts("gateway_listening") or self._ended(), "it does not listen")
        self.url = str(listening["address"])
        self.host, self.port = httpx.URL(self.url).host, int(self.url.rpartition(":")[2])
        self.client.close()  # of a former start
        self.client = httpx.Client(base_url=self.url, timeout=DEADLINE_S, headers=self._headers)

    # -- what a client does

    def wait_ready(self) -> Self:
        """Until all ranks take items."""
        until(lambda: self.health().get("status") == "ok" or self._ended(), "it is not ready", START_DEADLINE_S)
        return self

    def post(self, prompts: object, **fields: Any) -> httpx.Response:
        """The answer to a batch, whatever it is."""
        return self.client.post(BATCH, json={"prompts": prompts, **fields})

    def batch(self, prompts: object, **fields: Any) -> Json:
        """The answer to a batch that is accepted."""
        answer = self.post(prompts, **fields)
        assert answer.status_code == 200, answer.text
        return as_object(answer.text)

    def begin(self, prompts: object, *, api_key: str | None = None, **fields: Any) -> Pending:
        """Sends a batch and does not wait."""
        headers = bearer(api_key) if api_key else self._headers
        return Pending(self.host, self.port, {"prompts": prompts, **fields}, headers)

    def health(self) -> Json:
        """/health, whatever its status."""
        return as_object(self.client.get("/health").text)

    def ranks(self) -> list[Json]:
        """/v1/ranks."""
        found: list[Json] = self.client.get("/v1/ranks").json()["data"]
        return found

    def act(self, rank: int, what: str) -> httpx.Response:
        """An operator's hand on a rank: `drain` or `restart`."""
        return self.client.post(f"/v1/ranks/{rank}/{what}")

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        lines = [line for line in self.client.get("/metrics").text.splitlines(keepends=True) if line.startswith(name)]
        families = text_string_to_metric_families("".join(lines))
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def lags(self) -> Counter[float]:
        """How often the gateway's event loop was at most so late, in seconds. Two of them can be subtracted."""
        return lags_of(self.client.get("/metrics").text)

    @property
    def backlog(self) -> float:
        """Items that wait."""
        return self.metric("phalanx_backlog_items")

    @property
    def held(self) -> list[int]:
        """Items on each rank."""
        return [rank["held"] for rank in self.ranks()]

    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs, as far as a client can see."""
        active = self.metric("phalanx_active_batches") + self.metric("phalanx_active_exchanges")
        return sum(self.held) == self.backlog == active == 0

    # -- its end

    @property
    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text(errors="replace")

    def events(self) -> list[Json]:
        """Its log's facts."""
        return [as_object(line) for line in self.log.splitlines() if line.startswith("{") and line.endswith("}")]

    def facts(self, name: str, **fields: object) -> list[Json]:
        """Events of this name with these fields."""
        return [fact for fact in self.events() if fact.get("event") == name and fields.items() <= fact.items()]

    def processes(self) -> list[psutil.Process]:
        """All that stand in its folder: the gateway and everything below it, wherever it was reparented to."""
        return [process for process in psutil.process_iter() if _folder_of(process) == str(self.folder)]

    def titled(self, title: str) -> list[int]:
        """Process numbers of those with this in their title."""
        return with_title(self.processes(), title)

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Sends the gateway a signal."""
        self.process.send_signal(number)

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """The gateway's exit code."""
        return self.process.wait(deadline_s)

    def stop(self) -> None:
        """Ends it as an operator would, and checks that it ends well and leaves nothing."""
        self.signal()
        assert self.wait() == 0, "the exit code is not 0"
        self.check_nothing_left()

    def check_nothing_left(self) -> None:
        """No process, no open port, no runtime folder, no temporary journal, and no fault in the log."""
        assert self.processes() == []
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", self.port))
        assert [*self.folder.glob("phalanx-*"), *self.folder.glob("phalanx.journal-*")] == []
        assert "Traceback" not in self.log
        errors = [event for event in self.events() if event.get("level") == "error"]
        assert self.errors_expected or not errors

    def discard(self) -> None:
        """Ends whatever is left, however the test went."""
        self.client.close()
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _ended(self) -> list[Json]:
        """Nothing, as long as it has not ended."""
        assert self.process.poll() is None, f"it ended with exit code {self.process.returncode}"
        return []


@contextmanager
def serving(*flags: str, **more: Any) -> Iterator[Service]:
    """A service that is ready, and is stopped in the end if the test has not done that. Takes what Service takes."""
    with starting(*flags, **more) as service:
        yield service.wait_ready()


@contextmanager
def starting(*flags: str, **more: Any) -> Iterator[Service]:
    """A service that listens; its ranks are loading. Takes what Service takes."""
    service = Service(*flags, **more)
    try:
        service.start()
        yield service
        if service.process.poll() is None:
            service.stop()
    except BaseException:
        print(service.log)  # noqa: T201  pytest shows it with the failure
        raise
    finally:
        service.discard()


def longest(lags: Counter[float]) -> float:
    """The most that the event loop was late, as the bound of a bucket."""
    return min((bound for bound, count in lags.items() if count == max(lags.values())), default=0.0)


def bearer(api_key: str) -> dict[str, str]:
    """The header that shows a key."""
    return {"Authorization": f"Bearer {api_key}"}


def as_object(text: str) -> Json:
    """A JSON object."""
    found: Json = json.loads(text)
    return found


def with_title(processes: list[psutil.Process], title: str) -> list[int]:
    """The numbers of those that have this in their title."""
    found = []
    for process in processes:
        with suppress(psutil.Error):
            found += [process.pid] if title in " ".join(process.cmdline()) else []
    return found


def _folder_of(process: psutil.Process) -> str | None:
    try:
        return process.cwd()
    except psutil.Error:
        return None
