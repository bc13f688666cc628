"""The batches that are under way: taken in, admitted, ended by their deadline, a lost client or the service's end."""

import asyncio
from collections.abc import Callable

from app.batches.admission import AdmissionGate
from app.batches.batch import Batch
from app.batches.intake import Intake
from app.batches.memory import HeldBytes, Holding
from app.batches.rate import RateMeter
from app.batches.request import BatchRequest, bytes_of
from app.batches.results import Status
from app.batches.sampling import ParamsRefused, SamplingResolver
from app.batches.splitting import split
from app.batches.turnstile import Turnstile
from app.dispatch.dispatcher import Dispatcher
from app.dispatch.item import EVERYBODY, Owner
from app.errors import InvalidRequest
from app.logs import get_logger
from app.metrics import Metrics
from app.ranks.events import Aftermath, Loss, Member
from app.settings.declaration import Settings
from app.traces import OFF, Traces
from engines.contract.protocol import ItemError, ItemErrorCode, Result

logger = get_logger("batches")
ITEM_BYTES = 512  # that an item takes up besides its prompt and its result, and what is kept of it in the end


class BatchService:
    """Owns the batches. It hears of the ranks first, and tells the dispatcher."""

    def __init__(
        self,
        settings: Settings,
        dispatcher: Dispatcher,
        metrics: Metrics,
        has_hope: Callable[[], bool],
        traces: Traces = OFF,
    ) -> None:
        self._settings = settings
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._traces = traces
        self._has_hope = has_hope
        self._rate = RateMeter()
        self._idle = asyncio.Event()
        self._idle.set()
        self._active: dict[Batch, asyncio.TimerHandle | None] = {}
        self.admission = AdmissionGate(settings, dispatcher.backlog, self._rate)
        self.turnstile = Turnstile()
        self.memory = HeldBytes(settings.max_held_bytes, lambda: self._rate.seconds_for(dispatcher.outstanding_tokens))

    # -- from a request

    async def take_in(
        self, request: BatchRequest, resolver: SamplingResolver, holding: Holding, owner: Owner = EVERYBODY
    ) -> Batch:
        """A batch, not yet admitted. Raises TooLarge when it has too many prompts, TryLater when there is no room.

        While it is made its prompts are there twice; the caller lets go of the request right after.
        """
        settings, most = self._settings, self.admission.most_items + 1
        await self.turnstile.enter()
        raw = memoryview(request.prompts)
        prompts = await split(raw, most, settings.max_prompt_bytes, self.turnstile)
        self.admission.check_size(len(prompts), owner)
        self.admission.check_share(owner, len(prompts))  # before memory is spent on them
        self.admission.check_room(len(prompts), 0)
        holding.take(len(raw) + len(prompts) * ITEM_BYTES)
        trace = self._traces.batch(len(prompts))
        intake = Intake(request, prompts, resolver, settings, settings.public_name, self._forget, owner, holding)
        batch = await intake.build(self.turnstile)
        batch.trace = trace
        holding.take(resolver.wire_bytes)
        holding.give_back(len(raw))  # the body goes as soon as the batch has begun
        return batch

    def resolve(self, request: BatchRequest) -> SamplingResolver:
        """The batch-wide sampling parameters. Raises InvalidRequest."""
        try:
            return SamplingResolver(self._settings, bytes_of(request.sampling_params))
        except ParamsRefused as refused:
            found = refused.complaint
            raise InvalidRequest(found.message, param=found.param, code="invalid_sampling_params") from refused

    def begin(self, batch: Batch, timeout_s: float | None) -> None:
        """Admits the batch and starts it. Raises TryLater or TooLarge when there is no room."""
        self.admission.check_share(batch.flow.owner, len(batch.items))
        self.admission.check_room(len(batch.items), batch.tokens)
        figures = {"items": len(batch.items), "tokens": batch.tokens, "priority": batch.flow.priority}
        batch.trace.admitted(batch=batch.id, **figures)
        logger.info("batch_admitted", batch=batch.id, **figures, refused=batch.counts["error"], timeout_s=timeout_s)
        if batch.done.is_set():  # every item was refused
            batch.trace.ended(batch.counts.items())
            self._conclude(batch)
            return
        timer = asyncio.get_running_loop().call_later(timeout_s, self._expire, batch) if timeout_s else None
        self._active[batch] = timer
        self._idle.clear()
        self._rate.busy()
        self._dispatcher.submit(batch.flow, batch.items)

    def cancel(self, batch: Batch) -> None:
        """The client is gone: what is left of the batch is given up, in the backlog and on the ranks."""
        if batch in self._active:
            logger.info("client_disconnected", batch=batch.id, items=batch.size, ended=sum(batch.counts.values()))
            self._end(batch, "cancelled")

    def end_all(self, error: ItemError) -> None:
        """Every item of every batch that has no result gets this error."""
        for batch in list(self._active):
            self._end(batch, "error", error)

    async def wait_idle(self) -> None:
        """Until no batch is under way."""
        await self._idle.wait()

    @property
    def active(self) -> int:
        """Batches under way."""
        return len(self._active)

    @property
    def tokens_per_s(self) -> float | None:
        """The measured rate; None before anything was measured."""
        return self._rate.tokens_per_s

    # -- from the ranks

    def group_ready(self, group: int, members: list[Member], *, is_held: bool) -> None:
        """All ranks of the group run items."""
        self._dispatcher.group_ready(group, members, is_held=is_held)

    def group_held(self, group: int) -> None:
        """The group takes nothing new."""
        self._dispatcher.group_held(group)

    def results(self, rank: int, incarnation: int, results: list[Result]) -> None:
        """Attempts that ended."""
        before = self._dispatcher.completed_tokens
        self._dispatcher.results(rank, incarnation, results)
        self._rate.observe(self._dispatcher.completed_tokens - before)
        self._rest()
        self._metrics.results(rank, results)

    def group_lost(self, group: int, loss: Loss) -> Aftermath:
        """The group is gone, and what it held has to run again."""
        self._metrics.group_lost(str(loss.kind))
        return self._dispatcher.group_lost(group, loss)

    def group_given_up(self, group: int, reason: str) -> None:
        """The group will not come back by itself. With no other left, what waits would wait for ever."""
        self._dispatcher.group_given_up(group)
        if not self._has_hope():
            self.end_all(ItemError(ItemErrorCode.RANK_LOST, f"no rank is left: {reason}"))

    def held(self, rank: int) -> int:
        """Items that the rank holds now."""
        return self._dispatcher.held(rank)

    def suspects(self, group: int) -> int:
        """Items on trial on the group."""
        return self._dispatcher.suspects(group)

    # -- ends

    def _expire(self, batch: Batch) -> None:
        if batch in self._active:
            logger.info("batch_timeout", batch=batch.id, items=batch.size, ended=sum(batch.counts.values()))
            self._end(batch, "timeout")

    def _end(self, batch: Batch, status: Status, error: ItemError | None = None) -> None:
        self._dispatcher.cancel(batch.flow)
        batch.end(status, error)
        self._rest()

    def _rest(self) -> None:
        if not self._active:
            self._rate.idle()

    def _forget(self, batch: Batch) -> None:
        """The batch has its last result."""
        if batch in self._active:
            timer = self._active.pop(batch)
            if not self._active:
                self._idle.set()
            if timer is not None:
                timer.cancel()
            self._conclude(batch)

    def _conclude(self, batch: Batch) -> None:
        self._metrics.batch_ended(batch.counts.items())
        stats = batch.stats.summary()
        logger.info(
            "batch_ended",
            **batch.request_ids,
            batch=batch.id,
            **batch.counts,
            prompt_tokens=batch.usage.prompt_tokens,
            completion_tokens=batch.usage.completion_tokens,
            wall_s=stats.wall_s,
            queue_s=stats.queue_s,
            ranks=[share.rank for share in stats.ranks],
        )
