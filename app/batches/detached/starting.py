"""How a stored batch comes to run: the same items, limits and fairness as any batch's, read window by window."""

from collections.abc import Callable
from typing import Protocol

from app.batches.admission import AdmissionGate, owner_of_key
from app.batches.detached.options import decode_options
from app.batches.detached.running import OpenBatch
from app.batches.detached.sink import JournalSink
from app.batches.detached.source import JournalSource
from app.batches.feeding import Feeder, TakesIn, Window
from app.batches.intake import Intake
from app.batches.prediction import BatchSize
from app.batches.record import BatchRecord
from app.batches.request import bytes_of
from app.batches.results import PromptTokensDetails, Status, Usage
from app.batches.run import BatchRun
from app.batches.runs import Runs
from app.batches.sampling import SamplingResolver
from app.batches.shape import ITEM_SHAPE, ResultShape
from app.batches.turnstile import Turnstile
from app.dispatch.dispatcher import Dispatcher
from app.journal.keeper import JournalKeeper
from app.journal.records import NewResult, StoredBatch
from app.journal.states import BatchKind
from app.keys.ring import KeyRing
from app.metrics import Metrics
from app.ranks.fleet import Fleet
from app.settings.declaration import Settings
from app.traces import Traces
from engines import tasks

LEAST_WINDOW_ITEMS = 128
MAX_WINDOW_ITEMS = 8192
ALL_WINDOWS_ITEMS = 65_536
LEAST_WINDOW_BYTES = 256 * 1024
ALL_WINDOWS_BYTES = 64 * 1024**2
ROUNDS_AHEAD = 2  # of all the sequences that the ranks run at once
OnError = Callable[[int, BaseException], None]  # with the batch's ordinal


class Making(Protocol):
    """How the items of one stored batch are made, and what their results look like. Made with what is stored of it;
    that may raise RequestError, ParamsRefused and what decoding raises."""

    shape: ResultShape

    def intake(self, run: BatchRun[JournalSink]) -> TakesIn:
        """For the run's items."""

    def size(self, items: int) -> BatchSize | None:
        """What so many items may generate; None: nobody knows before they come."""


class Prompts:
    """The Making of a batch of prompts."""

    shape: ResultShape = ITEM_SHAPE

    def __init__(self, stored: StoredBatch, settings: Settings, fleet: Fleet) -> None:
        self._request = decode_options(stored.options)
        self._resolver = SamplingResolver(settings, bytes_of(self._request.sampling_params))
        self._settings = settings
        self._fleet = fleet

    def intake(self, run: BatchRun[JournalSink]) -> TakesIn:
        """For the run's items."""
        context = self._fleet.max_model_len
        return Intake(self._request, self._resolver, self._settings, run, context, is_duplicate=lambda *_: False)

    def size(self, items: int) -> BatchSize | None:
        """What so many items may generate."""
        sequences = items * self._resolver.batch_wide.n
        return BatchSize(sequences, sequences * self._resolver.batch_wide.max_tokens)


class RunStarter:
    """Makes runs of stored batches, and begins them. `lines` is how those of OpenAI's batches are made."""

    def __init__(
        self,
        settings: Settings,
        fleet: Fleet,
        dispatcher: Dispatcher,
        admission: AdmissionGate,
        runs: Runs,
        keeper: JournalKeeper,
        keys: KeyRing | None,
        metrics: Metrics,
        traces: Traces,
        lines: Callable[[StoredBatch], Making],
        on_failure: tasks.OnFailure,
    ) -> None:
        self._lines = lines
        self._settings = settings
        self._fleet = fleet
        self._dispatcher = dispatcher
        self._admission = admission
        self._runs = runs
        self._keeper = keeper
        self._keys = keys
        self._metrics = metrics
        self._traces = traces
        self._on_failure = on_failure
        self._turnstile = Turnstile()

    def begin(self, stored: StoredBatch, batch: OpenBatch, on_error: OnError) -> BatchRun[JournalSink]:
        """The run, which goes on from the results that the journal has."""
        is_lines = stored.kind is BatchKind.OPENAI
        making = self._lines(stored) if is_lines else Prompts(stored, self._settings, self._fleet)
        run = self._run(stored, batch, making.shape)
        feeder = Feeder(
            run,
            making.intake(run),
            JournalSource(self._keeper.journal, stored.ordinal),
            self._dispatcher,
            self._turnstile,
            room=self._admission.window_room,
            on_error=lambda _, error: on_error(stored.ordinal, error),
            window=self._window,
        )
        run.expect(stored.size)
        run.complete()
        self._runs.begin(run, None, feeder, making.size(run.missing))
        return run

    def note_end(self) -> None:
        """A batch has come to its end."""
        self._metrics.detached_batch_ended()

    def _run(self, stored: StoredBatch, batch: OpenBatch, shape: ResultShape) -> BatchRun[JournalSink]:
        key = self._keys.of_id(stored.key_id) if self._keys is not None and stored.key_id else None
        record = BatchRecord(
            stored.model,
            stored.priority,
            owner_of_key(key, stored.tenant),
            stored.tenant,
            id=stored.id,
            created_at=int(stored.created_at),
            request_ids={},
            is_detached=True,
        )

        def on_stored(results: list[NewResult], last_seq: int) -> None:
            batch.last_seq = max(batch.last_seq, last_seq)
            batch.tell()
            self._metrics.items_stored(stored.tenant, results)

        sink = JournalSink(
            self._keeper.journal, stored.ordinal, self._keeper.until_available, on_stored, self._on_failure
        )
        had = stored.counts
        counts: dict[Status, int] = {
            "ok": had.ok,
            "error": had.error,
            "cancelled": had.cancelled,
            "timeout": had.timeout,
        }
        trace = self._traces.batch(stored.size)
        return BatchRun(record, sink, self._runs.forget, trace, counts=counts, usage=usage_of(stored), shape=shape)

    def _window(self) -> Window:
        """Several rounds ahead of the ranks, and all windows together within bounds."""
        return window_of(self._dispatcher.slots, self._runs.active)


def window_of(slots: int, running: int) -> Window:
    """Of each of so many batches that run, for ranks that run so many sequences at once."""
    running = max(1, running)
    wanted = max(LEAST_WINDOW_ITEMS, ROUNDS_AHEAD * slots)
    items = min(wanted, MAX_WINDOW_ITEMS, max(LEAST_WINDOW_ITEMS, ALL_WINDOWS_ITEMS // running))
    return Window(items, max(LEAST_WINDOW_BYTES, min(Window().bytes, ALL_WINDOWS_BYTES // running)))


def usage_of(stored: StoredBatch) -> Usage:
    """The tokens of the results that it has."""
    used = stored.usage
    return Usage(
        used.prompt_tokens,
        used.completion_tokens,
        used.prompt_tokens + used.completion_tokens,
        PromptTokensDetails(used.cached_tokens),
    )
