"""Batches that come in windows from a list, and all that they pass through, for the tests beside this file."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from dispatch_bench import Bench

from app.batches.admission import AdmissionGate
from app.batches.feeding import Feeder, Retry, Window, retry_while_unavailable
from app.batches.intake import Intake
from app.batches.rate import RateMeter
from app.batches.record import BatchRecord
from app.batches.request import BatchRequest
from app.batches.results import Status
from app.batches.run import BatchRun
from app.batches.runs import Runs
from app.batches.sampling import SamplingResolver
from app.batches.sink import Brake, Rest
from app.batches.turnstile import Turnstile
from app.dispatch.item import EVERYBODY, Owner
from app.journal.records import DayUsage, StoredItem
from app.journal.usage_meter import UsageMeter
from app.metrics import Metrics
from app.settings.declaration import Settings
from engines.contract.protocol import Result

MOST_PASSES = 2000  # of the event loop, in which something must come about


async def _unwritten(used: DayUsage) -> None:
    raise AssertionError(used)


class Listed:
    """An ItemSource over prompts, given as JSON, without those that are `finished`."""

    def __init__(self, prompts: Sequence[bytes], finished: Iterable[int] = ()) -> None:
        self.prompts = prompts
        self.finished = set(finished)
        self.errors: list[Exception] = []  # that it raises first
        self.windows: list[list[int]] = []
        self.gate: asyncio.Future[None] | None = None  # reads wait for it

    async def window(self, after: int, limit: int, max_bytes: int) -> list[StoredItem]:
        await (self.gate or asyncio.sleep(0))
        if self.errors:
            raise self.errors.pop(0)
        found: list[StoredItem] = []
        for index in range(after + 1, len(self.prompts)):
            body = self.prompts[index]
            if len(found) == limit or (found and sum(len(item.body) for item in found) + len(body) > max_bytes):
                break
            if index not in self.finished:
                found.append(StoredItem(index, body))
        self.windows.append([item.index for item in found])
        return found


class Collected:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.results: dict[int, dict[str, Any]] = {}
        self.rests: list[Rest | None] = []
        self.brake: Brake

    def open(self, brake: Brake) -> None:
        self.brake = brake

    def put(self, index: int, encoded: bytes, status: Status, result: Result) -> None:
        assert index not in self.results, f"item {index} got two results"
        self.results[index] = msgspec.json.decode(encoded)

    def close(self, rest: Rest | None) -> None:
        self.rests.append(rest)

    @property
    def left(self) -> list[int]:
        """Items that got a result by the batch's end."""
        (rest,) = self.rests
        return [msgspec.json.decode(result)["index"] for result in rest or ()]


Run = BatchRun[Collected]


class House:
    """A dispatcher with ranks that are played, and the batches that run there."""

    def __init__(self, ranks: int = 1, quantum: int = 100, **settings: Any) -> None:
        self.settings = Settings(**{"default_max_tokens": 9, **settings})
        self.bench = Bench(ranks, quantum=quantum)
        self.dispatcher = self.bench.dispatcher
        rate = RateMeter()
        self.admission = AdmissionGate(self.settings, self.dispatcher.backlog, rate)
        self.runs = Runs(self.dispatcher, self.admission, rate, Metrics("1"), UsageMeter(_unwritten), self._fail)
        self.failures: list[tuple[BatchRun[Any], BaseException]] = []
        self.feeders: list[Feeder] = []

    def make(
        self, *, owner: Owner = EVERYBODY, priority: int = 0, counts: dict[Status, int] | None = None
    ) -> BatchRun[Collected]:
        """A batch of which nothing is expected yet."""
        record = BatchRecord("a-model", priority, owner)
        return BatchRun(record, Collected(), self.runs.forget, counts=counts)

    def feeder(
        self, run: Run, source: Listed, window: Window | None = None, retry: Retry = retry_while_unavailable
    ) -> Feeder:
        intake = Intake(
            BatchRequest(prompts=msgspec.Raw(b"[]")),
            SamplingResolver(self.settings, None),
            self.settings,
            run,
            is_duplicate=lambda index, custom_id: False,
        )
        feeder = Feeder(
            run,
            intake,
            source,
            self.dispatcher,
            Turnstile(),
            room=self.admission.window_room,
            on_error=lambda run, error: self.failures.append((run, error)),
            window=lambda: window or Window(8, 10**6),
            retry=retry,
        )
        self.feeders.append(feeder)
        return feeder

    def begin(
        self, source: Listed, window: Window | None = None, retry: Retry = retry_while_unavailable, **of_run: Any
    ) -> Run:
        """A batch of all that the source has, which runs."""
        run = self.make(**of_run)
        run.expect(len(source.prompts))
        run.complete()
        self.runs.begin(run, None, self.feeder(run, source, window, retry))
        return run

    def sent(self) -> list[bytes]:
        """The prompts that ranks were given, in order."""
        return [item.prompt for rank in self.bench.held for run in self.bench.runs(rank) for item in run.items]

    async def finish(self, *runs: BatchRun[Any]) -> None:
        """All ranks answer what they hold until these batches are done."""

        def all_are_done() -> bool:
            for rank, held in self.bench.held.items():
                if held:
                    self.bench.answer(rank)
            return all(run.done.is_set() for run in runs)

        await until(all_are_done)

    def _fail(self, what: str, error: BaseException) -> None:
        raise AssertionError(what) from error


@asynccontextmanager
async def house(ranks: int = 1, quantum: int = 100, **settings: Any) -> AsyncIterator[House]:
    """A house that is left without a task, an account or an item."""
    made = House(ranks, quantum, **settings)
    yield made
    await made.runs.stop()
    assert all(feeder.is_stopped for feeder in made.feeders)
    assert len(asyncio.all_tasks()) == 1
    if not made.runs.active:
        assert (made.dispatcher.backlog.items, made.dispatcher.backlog._levels) == (0, {})


async def until(condition: Callable[[], object]) -> None:
    """Lets everybody work until it is so."""
    for _ in range(MOST_PASSES):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it has not come about")


async def quiet() -> None:
    """Lets everybody work who can."""
    for _ in range(30):
        await asyncio.sleep(0)


def prompts(count: int) -> list[bytes]:
    """JSON that tells the index."""
    return [b'"%d"' % index for index in range(count)]
