"""Plays rounds on one service: sends the batches, deals the blows, and looks at what came of it."""

import abc
import contextlib
import os
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import httpx

from engines.host.runtime import sweep
from tests.chaos.checks import Broken, Footprint, left_in_shared_memory, runtimes, settle
from tests.chaos.client import Client
from tests.chaos.clients import WARM_UP, clients_of
from tests.chaos.plan import (
    CHOKE,
    CRASH,
    FALTER,
    HANG,
    ON_GATEWAY,
    SLOW,
    Blow,
    PlannedBlow,
    Round,
    draw,
)
from tests.given import Record
from tests.service import Service, until

ENGINE: dict[str, Any] = {
    "step_ms": 2,
    "max_num_seqs": 8,
    "shared_memory_kib": 64,
    "crash_on": CRASH,
    "crash_midstream_on": FALTER,
    "choke_on": CHOKE,
    "hang_on": HANG,
    "slow_on": SLOW,
}
FLAGS = (
    *("--restart-backoff-s", "20ms", "--max-restart-backoff-s", "100ms", "--stall-timeout-s", "2s"),
    *("--breaker-failures", "100000", "--trial-restarts", "100000", "--drain-timeout-s", "2", "--stop-timeout-s", "2"),
)
STOPPED_FOR_S = 0.5
RANKS = 2


class Arena(abc.ABC):
    """A service that is played on until a round ends it, and the next one after that, on the same journal."""

    def __init__(self, *, is_moe: bool) -> None:
        self.is_moe = is_moe
        self.counts: Counter[str] = Counter()
        self._service: Service | None = None
        self._before: Sequence[Footprint] = ()
        self._folder = Path(tempfile.mkdtemp(prefix="px-data-"))
        self._data = self._folder / "journal"
        self._given = Record(self._folder / "given")
        self._runtimes: list[str] = []

    @abc.abstractmethod
    def draw(self, seed: int, number: int) -> Round:
        """The round of this number."""

    @abc.abstractmethod
    def _launch(self) -> Service:
        """A service that listens, on the arena's journal."""

    @abc.abstractmethod
    def _wait_whole(self, service: Service) -> None:
        """Until it is ready."""

    @abc.abstractmethod
    def _measure(self) -> Sequence[Footprint]:
        """What all that belongs to the service takes up now."""

    @abc.abstractmethod
    def _find(self, title: str) -> list[int]:
        """The numbers of the service's processes, on whatever machine, with this in their title."""

    def play(self, round_: Round) -> None:
        """One round. Raises Broken or AssertionError."""
        service = self._ready()
        clients = clients_of(round_)
        self._play_all(
            [
                *((client.begin, service, round_) for client in clients),
                *((self._strike, service, blow) for blow in round_.blows),
            ]
        )
        self.counts["rounds"] += 1
        answered: set[str] = set()
        if round_.ends_gateway:
            self._bury(service, was_killed=round_.kills_gateway)
            answered = set().union(*(client.answered() for client in clients))
            self.counts["results read before an end"] += len(answered)
            self._given.news()
            for end in round_.more_ends:
                self._end_soon(end)
        self._follow_up(clients, answered, round_)
        self.counts = sum((client.counts for client in clients), self.counts)

    def _play_all(self, acts: Iterable[tuple[Any, ...]]) -> None:
        """Each in a thread of its own. Raises what one of them has raised."""
        errors: list[BaseException] = []
        threads = [threading.Thread(target=_guarded, args=(errors, *act)) for act in acts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def _end_soon(self, end: PlannedBlow) -> None:
        """A gateway that has just begun to go on with what there was."""
        service = self._launch()
        self.counts["services"] += 1
        self._strike(service, end)
        self._bury(service, was_killed=end.what is Blow.KILL_GATEWAY)

    def _follow_up(self, clients: list[Client], answered: set[str], round_: Round) -> None:
        """All batches in the background come to their ends, on another gateway if need be, and all is well again."""
        has_background = round_.has_background
        service = self._ready(is_loaded=has_background)
        for client in clients:
            client.finish(service, round_)
        if repeated := answered & self._given.news().keys():
            raise Broken(f"{len(repeated)} items ran again that had their results: {sorted(repeated)[:5]}")
        ends = has_background and round_.ends_gateway
        self.counts["gateways ended amid batches"] += 1 + len(round_.more_ends) if ends else 0
        self._settle(service, Round(round_.number) if round_.ends_gateway and not has_background else round_)
        for client in clients:
            client.compare(service, round_)

    def close(self) -> None:
        """Ends the service in order."""
        if self._service is not None:
            try:
                self._service.stop()
            finally:
                self._service.discard()
                self._service = None
        shutil.rmtree(self._folder)

    def abandon(self) -> None:
        """Ends whatever is left of it, however."""
        if self._service is not None:
            self._service.discard()
        shutil.rmtree(self._folder, ignore_errors=True)

    def log(self) -> str:
        """What the service has printed."""
        return self._service.log if self._service is not None else ""

    @property
    def _engine(self) -> dict[str, Any]:
        """The arguments of its ranks."""
        return ENGINE | {"is_moe": self.is_moe, "prompts_file": str(self._given.path)}

    @property
    def memory_mib(self) -> float:
        """Resident memory of the gateway."""
        if self._service is None:
            return 0.0
        return self._service.metric("phalanx_process_resident_memory_bytes") / 2**20

    def _ready(self, *, is_loaded: bool = False) -> Service:
        """The service, or a new one. A loaded one goes on with batches, and is to become as the one before it."""
        if self._service is None:
            service = self._launch()
            self._wait_whole(service)
            for client in clients_of(WARM_UP):
                client.begin(service, WARM_UP)
            if not is_loaded:
                self._before = self._measure()
            self.counts["services"] += 1
            return service
        return self._service

    def _settle(self, service: Service, round_: Round) -> None:
        """The service has survived the round: all is well again."""
        settle(service, self._before, self._measure)

    def _bury(self, service: Service, *, was_killed: bool) -> None:
        """The gateway was ended: in order with exit code 0, or by SIGKILL; either way nothing is left."""
        code = service.wait()
        if code != 0 and not was_killed:
            raise Broken(f"the gateway ended with exit code {code}")
        try:
            until(lambda: not service.processes(), "processes are left", 15)
        except AssertionError as error:
            left = [
                (process.pid, process.ppid(), process.status(), process.cmdline()) for process in service.processes()
            ]
            raise Broken(f"processes are left: {left}") from error
        if was_killed:  # in the instant between two lives of its only group there is no guardian that could clear up
            sweep(service.folder)
        until(lambda: not list(service.folder.glob("phalanx-*/*")), "sockets or folders are left", 15)
        until(lambda: not left_in_shared_memory(self._runtimes), "shared memory is left", 15)
        self._runtimes.clear()
        if not was_killed:
            service.check_nothing_left()
        service.discard()
        self._service = None

    def _strike(self, service: Service, blow: PlannedBlow) -> None:
        time.sleep(blow.delay_s)
        self.counts[blow.what] += 1
        self._runtimes += runtimes(service) if blow.what in ON_GATEWAY else []
        with contextlib.suppress(ProcessLookupError):
            self._deal(service, blow)

    def _deal(self, service: Service, blow: PlannedBlow) -> None:
        """Raises ProcessLookupError where what it is meant for is gone."""
        match blow.what:
            case Blow.TERM_GATEWAY:
                service.signal(signal.SIGTERM)
            case Blow.KILL_GATEWAY:
                service.signal(signal.SIGKILL)
            case Blow.RESTART:
                with contextlib.suppress(httpx.HTTPError):  # the gateway may be gone
                    service.act(blow.rank, "restart")
            case Blow.STOP_GUARDIAN:
                for pid in self._find(f"phalanx-guardian {blow.rank}")[:1]:
                    os.kill(pid, signal.SIGSTOP)
                    time.sleep(STOPPED_FOR_S)
                    os.kill(pid, signal.SIGCONT)
            case _:
                number = signal.SIGSTOP if blow.what is Blow.STOP_RANK else signal.SIGKILL
                title = "guardian" if blow.what is Blow.KILL_GUARDIAN else "rank"
                for pid in self._find(f"phalanx-{title} {blow.rank}")[:1]:
                    os.kill(pid, number)


class OneHost(Arena):
    """Two ranks beside their gateway."""

    def draw(self, seed: int, number: int) -> Round:
        return draw(seed, number, RANKS)

    def _launch(self) -> Service:
        self._service = Service(*FLAGS, "--data-dir", str(self._data), dp_size=RANKS, **self._engine)
        self._service.errors_expected = True
        self._service.start()
        return self._service

    def _wait_whole(self, service: Service) -> None:
        service.wait_ready()

    def _measure(self) -> Sequence[Footprint]:
        return [Footprint.of(self._service)] if self._service is not None else []

    def _find(self, title: str) -> list[int]:
        return self._service.titled(title) if self._service is not None else []


def _guarded(errors: list[BaseException], act: Any, *args: Any) -> None:
    try:
        act(*args)
    except BaseException as error:  # noqa: BLE001  handed to the thread that waits
        errors.append(error)
