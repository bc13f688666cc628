"""The parts of the gateway, put together, and their life: start, drain, stop."""

import asyncio
import contextvars
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from app.batches.acceptance import Acceptance
from app.batches.admission import AdmissionGate
from app.batches.arrival import Arrivals
from app.batches.availability import Availability
from app.batches.detached.service import DetachedService
from app.batches.dry_run import DryRuns
from app.batches.engine_check import EngineCheck
from app.batches.memory import HeldBytes
from app.batches.rate import RateMeter
from app.batches.reading import BodyReads
from app.batches.runs import Runs
from app.batches.spool_space import SpoolSpace
from app.dispatch.dispatcher import Dispatcher
from app.dispatch.placement import Dispatch, placement
from app.exchanges.service import Exchanges
from app.journal.keeper import JournalKeeper
from app.keys.ring import KeyRing
from app.keys.store import KeysFile
from app.logs import get_logger
from app.metrics import Metrics
from app.openai_batches.making import making_of
from app.openai_batches.service import OpenAIBatches
from app.ranks.devices import Allotment
from app.ranks.events import Loss
from app.ranks.fleet import Fleet
from app.settings.declaration import Settings
from app.settings.folders import service_journal, spool_folder, temporary_folder
from app.traces import OFF, Traces
from engines import tasks
from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.protocol import Abort, Result, Run
from phalanx import __version__

logger = get_logger("gateway")


class RankView(msgspec.Struct):
    """A rank's figures at one scrape."""

    number: int
    state: str
    figures: dict[str, float]


class Gateway:
    """One per process. Made inside the running event loop."""

    def __init__(
        self, settings: Settings, environ: Mapping[str, str], allotment: Allotment, traces: Traces = OFF
    ) -> None:
        self.settings = settings
        self.traces = traces
        self.started_at = time.time()
        self.metrics = Metrics(__version__)
        self.keeper = JournalKeeper(
            service_journal(settings, environ),
            Path(temporary_folder()),
            settings.quotas,
            settings.retention,
            self.metrics.journal_commit,
            self._fail,
        )
        self.keys = KeyRing(KeysFile(settings.api_keys_file)) if settings.api_keys_file else None
        self.dispatcher = Dispatcher(
            self._send,
            placement(Dispatch(settings.dispatch)),
            settings.fairness_quantum_tokens,
            settings.prefetch,
            self._later,
            self._soon,
            self,
            settings.online_share,
            waves=settings.waves,
        )
        self.changed = asyncio.Event()
        self.fleet = Fleet(settings, environ, allotment, self.dispatcher, self._on_change)
        self.availability = Availability(self.fleet, self.dispatcher)
        rate = RateMeter()
        self.memory = HeldBytes(settings.max_held_bytes, lambda: rate.seconds_for(self.dispatcher.outstanding_tokens))
        self.bodies = BodyReads()
        admission = AdmissionGate(settings, self.dispatcher.backlog, rate)
        self.runs = Runs(self.dispatcher, admission, rate, self.metrics, self.keeper.usage, self._fail)
        engine_check = EngineCheck(self.fleet, self.availability)
        self.acceptance = Acceptance(
            settings, self.fleet, self.availability, engine_check, admission, self.runs, traces, self.dispatcher
        )
        self.exchanges = self._make_exchanges(admission, rate)
        self.spools = SpoolSpace(settings.max_spool_bytes, spool_folder(settings.spool_dir))
        self.arrivals = Arrivals(
            self.acceptance, self.runs, self.availability, self.spools, settings.stream_window_bytes
        )
        self.detached = self._make_detached(admission)
        self.openai_batches = self._make_openai_batches()
        self.dry_runs = DryRuns(self.acceptance, self.fleet, self.availability, self.runs.forecasts)
        self._watch()

    def _make_exchanges(self, admission: AdmissionGate, rate: RateMeter) -> Exchanges:
        return Exchanges(
            self.settings,
            self.fleet,
            self.availability,
            admission,
            self.dispatcher,
            rate,
            self.metrics,
            self.keeper.usage,
            self.traces,
            self._soon,
        )

    def _make_openai_batches(self) -> OpenAIBatches:
        detached = self.detached
        return OpenAIBatches(
            self.settings,
            self.keeper,
            detached.batches,
            self.availability,
            self.keys,
            detached.answer_settings,
            self._fail,
        )

    def _make_detached(self, admission: AdmissionGate) -> DetachedService:
        return DetachedService(
            self.settings,
            self.fleet,
            self.dispatcher,
            self.availability,
            admission,
            self.runs,
            self.acceptance,
            self.keeper,
            self.keys,
            self.metrics,
            self.traces,
            lambda stored: making_of(stored, self.settings, self.fleet),
            self._fail,
        )

    # -- life

    async def open(self) -> None:
        """Opens the journal, before anything is served or started. Raises CannotOpen; `stop` is to be called then."""
        await self.keeper.open()
        await self.detached.batches.start()
        await self.openai_batches.start()

    def start(self) -> None:
        """Begins to start the ranks; requests may come at once."""
        if self.keys is not None:
            self.keys.start(self._fail)
        self.fleet.start()

    async def drain(self) -> None:
        """Admits nothing more, and lets what is admitted finish, up to the deadline; the rest gets its error."""
        self.availability.is_draining = True
        self.bodies.end()
        timeout_s = self.settings.drain_timeout_s
        self.detached.batches.halt()
        logger.info("draining", batches=self.runs.active, exchanges=self.exchanges.active, timeout_s=timeout_s)
        try:
            await self.detached.batches.stop()
            async with asyncio.timeout(timeout_s):
                await self.runs.wait_idle()
                await self.exchanges.wait_idle()
        except TimeoutError:
            logger.warning("drain_deadline", batches=self.runs.active, exchanges=self.exchanges.active)
        finally:  # after a second signal, too: every item gets its result
            self._end_all(ItemErrorCode.SHUTTING_DOWN, "the service is shutting down: send the item again")

    def give_up(self) -> None:
        """The service cannot go on: what is admitted gets its error at once."""
        self.availability.is_draining = True
        self.bodies.end()
        self.detached.batches.halt()
        self._end_all(ItemErrorCode.SHUTTING_DOWN, "the service failed and ends: send the item again")

    async def stop(self) -> None:
        """Stops the ranks, and closes the journal when nothing more can come from them. May be called twice."""
        try:
            await self.fleet.stop()
        finally:
            await self.detached.batches.stop()
            await self.openai_batches.stop()
            await self.runs.stop()
            if self.keys is not None:
                await self.keys.stop()
            await self.keeper.close()

    # -- between the parts

    def results_taken(self, rank: int, results: list[Result], completed_tokens: int) -> None:
        """The dispatcher has handed a rank's results on."""
        self.runs.results_taken(rank, results, completed_tokens)

    def group_lost(self, loss: Loss) -> None:
        """The dispatcher has lost a group."""
        self.metrics.group_lost(str(loss.kind))

    def _soon(self, act: Callable[[], None]) -> None:
        """In the next pass of the event loop, and in nobody's context: what is dispatched is many requests'."""
        acting = tasks.guarded(act, "dispatch", self._fail)
        asyncio.get_running_loop().call_soon(acting, context=contextvars.Context())

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        acting = tasks.guarded(act, "dispatch", self._fail)
        asyncio.get_running_loop().call_later(seconds, acting, context=contextvars.Context())

    def _fail(self, what: str, error: BaseException) -> None:
        self.fleet.fail(what, error)

    def _send(self, rank: int, message: Run | Abort) -> None:
        self.fleet.send(rank, message)

    def _on_change(self) -> None:
        """Something has changed with the ranks. With none left that could come back, work would wait for ever."""
        self.changed.set()
        if self.fleet.has_hope:
            self.detached.batches.release_all()
            return
        reason = f"no rank is left: {self.availability.reason}"
        self.detached.batches.hold_all(reason)
        self._end_all(ItemErrorCode.RANK_LOST, reason)

    def _end_all(self, code: ItemErrorCode, reason: str) -> None:
        """All that is admitted and has no answer gets this error."""
        error = ItemError(code, reason)
        self.runs.end_all(error)
        self.exchanges.end_all(error)

    # -- metrics

    def _watch(self) -> None:
        dispatcher, keeper = self.dispatcher, self.keeper
        self.metrics.watch(
            {
                "phalanx_backlog_items": lambda: dispatcher.backlog.items,
                "phalanx_backlog_tokens": lambda: dispatcher.backlog.tokens,
                "phalanx_running_items": lambda: dispatcher.running_items,
                "phalanx_suspect_items": lambda: sum(dispatcher.suspects(group) for group in self.fleet.groups),
                "phalanx_asyncio_tasks": lambda: len(asyncio.all_tasks()),
                "phalanx_active_batches": lambda: self.runs.active,
                "phalanx_active_exchanges": lambda: self.exchanges.active,
                "phalanx_batches_held_back": lambda: self.runs.held_back,
                "phalanx_detached_batches": lambda: self.detached.batches.open,
                "phalanx_detached_batches_held": lambda: self.detached.batches.held,
                "phalanx_held_bytes": lambda: self.memory.total,
                "phalanx_spool_bytes": lambda: self.spools.total,
                "phalanx_items_requeued_total": lambda: dispatcher.requeued_items,
                "phalanx_items_poisoned_total": lambda: dispatcher.convicted,
                "phalanx_journal_available": lambda: keeper.health.reason is None,
                "phalanx_journal_commits_total": lambda: keeper.commits,
                "phalanx_journal_file_bytes": lambda: keeper.figures.disk.file_bytes,
                "phalanx_journal_free_bytes": lambda: keeper.figures.disk.free_bytes,
                "phalanx_stored_batches": lambda: keeper.figures.sizes.batches,
                "phalanx_stored_items": lambda: keeper.figures.sizes.items,
                "phalanx_stored_files": lambda: keeper.figures.sizes.files,
                "phalanx_stored_bytes": lambda: keeper.figures.sizes.bytes,
            },
            self._rank_views,
        )

    def _rank_views(self) -> Iterable[RankView]:
        for rank in self.fleet.ranks:
            figures: dict[str, float] = {
                "phalanx_rank_held_items": self.dispatcher.held(rank.number),
                "phalanx_rank_credit_sequences": self.dispatcher.credit(rank.number),
                "phalanx_rank_restarts": max(0, rank.incarnation - 1),
            }
            if rank.status is not None:
                status = rank.status
                figures["phalanx_rank_running_sequences"] = status.running
                figures["phalanx_rank_waiting_sequences"] = status.waiting
                figures["phalanx_rank_kv_cache_usage_ratio"] = status.kv_cache_usage
                figures["phalanx_rank_steps"] = status.steps
                if status.step_age_s is not None:
                    figures["phalanx_rank_step_age_seconds"] = status.step_age_s
            yield RankView(rank.number, str(rank.state), figures)
