"""What the gateway has for detached batches, put together."""

from collections.abc import Callable

from app.batches.acceptance import Acceptance
from app.batches.admission import AdmissionGate
from app.batches.availability import Availability
from app.batches.detached.acceptance import DetachedAcceptance
from app.batches.detached.answer_settings import answer_settings
from app.batches.detached.batches import DetachedBatches
from app.batches.detached.reading import StoredResults
from app.batches.detached.starting import Making, RunStarter
from app.batches.runs import Runs
from app.dispatch.dispatcher import Dispatcher
from app.journal.keeper import JournalKeeper
from app.journal.records import StoredBatch
from app.keys.ring import KeyRing
from app.metrics import Metrics
from app.ranks.fleet import Fleet
from app.settings.declaration import Settings
from app.traces import Traces
from engines import tasks


class DetachedService:
    """`acceptance` takes batches in, `batches` runs them, and `results` reads what has come of them."""

    def __init__(
        self,
        settings: Settings,
        fleet: Fleet,
        dispatcher: Dispatcher,
        availability: Availability,
        admission: AdmissionGate,
        runs: Runs,
        accepting: Acceptance,
        keeper: JournalKeeper,
        keys: KeyRing | None,
        metrics: Metrics,
        traces: Traces,
        lines: Callable[[StoredBatch], Making],
        on_failure: tasks.OnFailure,
    ) -> None:
        self.answer_settings = settled = answer_settings(settings)
        starter = RunStarter(
            settings, fleet, dispatcher, admission, runs, keeper, keys, metrics, traces, lines, on_failure
        )
        self.batches = DetachedBatches(keeper, runs, starter, settled, on_failure)
        self.acceptance = DetachedAcceptance(settings, keeper, accepting, availability, self.batches, settled)
        self.results = StoredResults(keeper, self.batches, settings.keepalive_s)
