"""The batches that run: begun, and ended by their last result, a deadline, a lost client or the service's end."""

import asyncio
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET

from app.batches.admission import AdmissionGate
from app.batches.feeding import Feeder
from app.batches.forecasts import Forecasts, size_of
from app.batches.prediction import BatchSize
from app.batches.rate import RateMeter
from app.batches.results import Status
from app.batches.run import BatchRun
from app.dispatch.dispatcher import Dispatcher
from app.dispatch.item import Flow
from app.journal.usage_meter import UsageMeter
from app.logs import get_logger
from app.metrics import Metrics
from engines import tasks
from engines.contract.item_errors import ItemError
from engines.contract.protocol import Result

logger = get_logger("batches")
AnyRun: TypeAlias = BatchRun[Any]  # Any: whatever sink its results go to


class Life(msgspec.Struct):
    """What goes on for a batch while it runs."""

    timer: asyncio.TimerHandle | None
    feeder: Feeder | None

    def end(self) -> None:
        """No more of it."""
        if self.timer is not None:
            self.timer.cancel()
        if self.feeder is not None:
            self.feeder.end()


class Runs:
    """Owns the batches that run, and measures how fast they do."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        admission: AdmissionGate,
        rate: RateMeter,
        metrics: Metrics,
        usage: UsageMeter,
        on_failure: tasks.OnFailure,
    ) -> None:
        self.forecasts = Forecasts(lambda: dispatcher.slots)
        self._dispatcher = dispatcher
        self._on_time = tasks.guarded(self._expire, "batch timeout", on_failure)
        self._admission = admission
        self._rate = rate
        self._metrics = metrics
        self._usage = usage
        self._active: dict[AnyRun, Life] = {}
        self._ended_feeders: list[Feeder] = []  # which may be on their way out still
        self._idle = asyncio.Event()
        self._idle.set()

    # -- beginning

    def begin(
        self, run: AnyRun, timeout_s: float | None, feeder: Feeder | None = None, size: BatchSize | None = None
    ) -> None:
        """Admits the batch and starts it. Raises TryLater or TooLarge when there is no room.

        One with a feeder comes in windows, and is always admitted: the feeder finds room for each of them. `size` is
        what its items may generate; where nobody knows, its forecast is of those that have come.
        """
        items = run.items
        tokens = sum(item.cost for item in items)
        if feeder is None:
            self._admission.check_share(run.flow.owner, len(items))
            self._admission.check_room(len(items), tokens)
        figures = {"items": len(items) + run.missing, "tokens": tokens, "priority": run.flow.priority}
        run.trace.admitted(batch=run.record.id, **figures)
        refused = 0 if feeder else run.ended
        logger.info("batch_admitted", batch=run.record.id, **figures, refused=refused, timeout_s=timeout_s)
        if run.done.is_set():  # every item was refused, or had its result before
            if feeder is not None:
                feeder.end()
            run.trace.ended(run.counts.items())
            self._conclude(run)
            return
        self._active[run] = Life(None, feeder)
        self.expire_after(run, timeout_s)
        self._idle.clear()
        self._rate.busy()
        grows = feeder is not None and size is None
        run.forecast = self.forecasts.begin(run.flow, size or size_of(items), grows=grows)
        if not grows:
            run.forecast.look_back(len(items) + run.missing)
        run.sink.open(_FlowBrake(self._dispatcher, run.flow))
        self._dispatcher.submit(run.flow, items)
        if feeder is not None:
            feeder.start()

    def expire_after(self, run: AnyRun, timeout_s: float | None) -> None:
        """What has no result by then ends with a timeout. Without a time nothing changes."""
        if timeout_s and run in self._active:
            loop = asyncio.get_running_loop()
            ends_at = loop.time() + timeout_s
            self._active[run].timer = loop.call_at(ends_at, self._on_time, run)
            run.flow.has_time_for = lambda steps: loop.time() + self.forecasts.seconds_of(steps) <= ends_at

    # -- ending

    def fail(self, run: AnyRun, error: ItemError) -> None:
        """What is left of the batch gets this error."""
        if run in self._active:
            self._end(run, "error", error)

    def cancel(self, run: AnyRun) -> None:
        """The client is gone: what is left of the batch is given up, in the backlog and on the ranks."""
        if run in self._active:
            logger.info("client_disconnected", batch=run.record.id, items=run.total, ended=run.ended)
            self._end(run, "cancelled")

    def end_all(self, error: ItemError) -> None:
        """Every item of every batch that has no result gets this error."""
        for run in list(self._active):
            self._end(run, "error", error)

    def forget(self, run: AnyRun) -> None:
        """The batch has its last result."""
        if run in self._active:
            self._take_out(run)
            self._look_back(run)
            self._conclude(run)

    def drop(self, run: AnyRun) -> None:
        """Runs nothing more of a batch that is kept elsewhere: what has no result gets none, and may run again later.
        Nobody is told, its sink included."""
        if run in self._active:
            self._dispatcher.cancel(run.flow)
            self._take_out(run)
            if run.forecast is not None:
                self.forecasts.end(run.forecast)

    async def stop(self) -> None:
        """Returns when nothing is read any more for any batch. May be called twice."""
        feeders = [life.feeder for life in self._active.values() if life.feeder is not None]
        await asyncio.gather(*(feeder.stop() for feeder in (*feeders, *self._ended_feeders)))

    async def wait_idle(self) -> None:
        """Until no batch runs."""
        await self._idle.wait()

    @property
    def active(self) -> int:
        """Batches that run."""
        return len(self._active)

    @property
    def held_back(self) -> int:
        """Of these, those of which nothing is dispatched, because nobody takes their results."""
        return sum(run.flow.is_held_back for run in self._active)

    def _expire(self, run: AnyRun) -> None:
        if run in self._active:
            logger.info("batch_timeout", batch=run.record.id, items=run.total, ended=run.ended)
            self._end(run, "timeout")

    def _end(self, run: AnyRun, status: Status, error: ItemError | None = None) -> None:
        self._dispatcher.cancel(run.flow)
        run.end(status, error)

    def _take_out(self, run: AnyRun) -> None:
        life = self._active.pop(run)
        self._rate.done()
        life.end()
        self._ended_feeders = [feeder for feeder in self._ended_feeders if not feeder.is_stopped]
        if life.feeder is not None:
            self._ended_feeders.append(life.feeder)
        if not self._active:
            self._idle.set()

    def _look_back(self, run: AnyRun) -> None:
        """How well its time was predicted, unless it was cut short."""
        if run.forecast is None:
            return
        quality = run.forecast.quality() if run.counts["cancelled"] == run.counts["timeout"] == 0 else None
        if quality is not None:
            run.stats.prediction = quality
            if quality.half is not UNSET:
                self._metrics.predicted(abs(quality.half - 1))
        self.forecasts.end(run.forecast)

    def _conclude(self, run: AnyRun) -> None:
        if not run.record.is_detached:  # whose results count as they become durable
            self._metrics.batch_ended(run.counts.items())
            self._count_usage(run)
        stats = run.stats.summary()
        logger.info(
            "batch_ended",
            **run.record.request_ids,
            batch=run.record.id,
            **run.counts,
            prompt_tokens=run.usage.prompt_tokens,
            completion_tokens=run.usage.completion_tokens,
            wall_s=stats.wall_s,
            queue_s=stats.queue_s,
            ranks=[share.rank for share in stats.ranks],
        )

    def _count_usage(self, run: AnyRun) -> None:
        record, used = run.record, run.usage
        figures = {"prompt_tokens": used.prompt_tokens, "completion_tokens": used.completion_tokens}
        self._metrics.tenant_used(record.tenant, run.total, **figures)
        self._usage.add(record.tenant, requests=1, items=run.total, **figures)

    # -- from the dispatcher

    def results_taken(self, rank: int, results: list[Result], completed_tokens: int) -> None:
        """A rank has answered; the items' batches know. `completed_tokens` are what the answered items cost."""
        self._rate.observe(completed_tokens)
        self._metrics.results(rank, results)


class _FlowBrake:
    """A sink's hold on its batch."""

    def __init__(self, dispatcher: Dispatcher, flow: Flow) -> None:
        self._dispatcher = dispatcher
        self._flow = flow

    def hold(self) -> None:
        self._dispatcher.hold_back(self._flow)

    def release(self) -> None:
        self._dispatcher.let_go(self._flow)
