"""How a batch is accepted, whoever asks: its steps have one order, and it is this one."""

from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from app.batches.admission import AdmissionGate, owner_of
from app.batches.availability import Availability
from app.batches.engine_check import EngineCheck
from app.batches.feeding import Feeder, ItemSource
from app.batches.intake import Intake
from app.batches.memory import Holding
from app.batches.parsing import parse_in_turn
from app.batches.record import BatchRecord, Label
from app.batches.request import DEFAULT_PRIORITY, BatchRequest, bytes_of
from app.batches.run import BatchRun
from app.batches.runs import Runs
from app.batches.sampling import KnownParams, ParamsRefused, SamplingResolver
from app.batches.sink import ResultSink
from app.batches.splitting import Entries, batched, split
from app.batches.turnstile import Turnstile
from app.dispatch.dispatcher import Dispatcher
from app.dispatch.item import Owner
from app.errors import InvalidRequest, NotFound, TooLarge
from app.keys.key import ApiKey
from app.keys.ring import Caller
from app.ranks import offer
from app.ranks.fleet import Fleet
from app.settings.declaration import Settings
from app.traces import Traces
from engines.contract.exchanges import BATCH_GENERATE
from engines.contract.item_errors import ItemError, ItemErrorCode

CUT_ITEMS = 500  # at a time
ITEM_BYTES = 512  # that an item takes up besides its prompt and its result, and what is kept of it in the end
SinkT = TypeVar("SinkT", bound=ResultSink)
OpenSink = Callable[[int], SinkT]  # for the results of so many items


class Acceptance:
    """From a request's body to a batch that runs, or to the error that says why not."""

    def __init__(
        self,
        settings: Settings,
        fleet: Fleet,
        availability: Availability,
        engine_check: EngineCheck,
        admission: AdmissionGate,
        runs: Runs,
        traces: Traces,
        dispatcher: Dispatcher,
    ) -> None:
        self._settings = settings
        self._fleet = fleet
        self._availability = availability
        self._engine_check = engine_check
        self._admission = admission
        self._runs = runs
        self._traces = traces
        self._dispatcher = dispatcher
        self.turnstile = Turnstile()
        self._known_params = KnownParams()

    async def read(self, body: bytearray) -> BatchRequest:
        """What a body asks for, checked as far as the batch as a whole goes. Raises RequestError."""
        request = await parse_in_turn(body, self.turnstile)
        self.check(request)
        return request

    async def accept(
        self, request: BatchRequest, caller: Caller, holding: Holding, open_sink: OpenSink[SinkT]
    ) -> BatchRun[SinkT]:
        """A batch that runs. What it takes in memory counts for `holding`. Raises RequestError."""
        run = await self.take_in(request, caller, holding, open_sink)
        holding.give_back(len(memoryview(request.prompts)))  # the body goes as soon as the batch has begun
        self._availability.check()
        self._runs.begin(run, request.timeout_s or self._settings.default_timeout_s)
        return run

    async def take_in(
        self,
        request: BatchRequest,
        caller: Caller,
        holding: Holding,
        open_sink: OpenSink[SinkT],
        *,
        will_run: bool = True,
    ) -> BatchRun[SinkT]:
        """A batch with its items, which does not run yet. One that never will needs no room in the backlog."""
        self.check_attached(request)
        priority = priority_of(request, caller)
        resolver = await self._agree(request)
        prompts = await self._take_apart(request, owner_of(caller))
        if will_run:
            self._admission.check_share(owner_of(caller), len(prompts))
            self._admission.check_room(len(prompts), 0)
        # While items are made, and until the body goes, their prompts are there twice.
        holding.take(len(memoryview(request.prompts)) + len(prompts) * ITEM_BYTES)
        record = BatchRecord(self._settings.public_name, priority, owner_of(caller), caller.tenant)
        trace = self._traces.batch(len(prompts)) if will_run else None
        run = BatchRun(record, open_sink(len(prompts)), self._runs.forget, trace)
        run.expect(len(prompts))
        run.complete()
        intake = Intake(request, resolver, self._settings, run, self._fleet.max_model_len)
        await intake.take(enumerate(prompts), self.turnstile)
        holding.take(resolver.wire_bytes)
        return run

    async def begin(
        self, options: BatchRequest, caller: Caller, sink: SinkT, source: ItemSource, label: Callable[[int], Label]
    ) -> BatchRun[SinkT]:
        """A batch that runs, with no items yet: the run is told of those in `source` as they come, and when they end.

        `label` is asked for items that never ran. The batch has no time limit. Raises RequestError.
        """
        self.check(options)
        self.check_attached(options)
        priority = priority_of(options, caller)
        resolver = await self._agree(options)
        record = BatchRecord(self._settings.public_name, priority, owner_of(caller), caller.tenant)
        run = BatchRun(record, sink, self._runs.forget, self._traces.batch(0), label_untaken=label)
        intake = Intake(options, resolver, self._settings, run, self._fleet.max_model_len)
        self._availability.check()
        feeder = Feeder(
            run,
            intake,
            source,
            self._dispatcher,
            self.turnstile,
            room=self._admission.window_room,
            on_error=self._lose_items,
        )
        self._runs.begin(run, None, feeder)
        return run

    def _lose_items(self, run: BatchRun[ResultSink], error: BaseException) -> None:
        reason = f"the gateway could not read the item back from its disk: {error}"
        self._runs.fail(run, ItemError(ItemErrorCode.ENGINE_ERROR, reason))

    @property
    def default_timeout_s(self) -> float | None:
        """Of a batch that names no timeout."""
        return self._settings.default_timeout_s

    async def _agree(self, request: BatchRequest) -> SamplingResolver:
        """The batch-wide sampling parameters, which a rank accepts."""
        resolver = self.resolve(request)
        await self.check_params(resolver)
        return resolver

    def check(self, request: BatchRequest) -> None:
        """What concerns the batch as a whole."""
        settings = self._settings
        if request.model is not None and request.model != settings.public_name:
            raise NotFound(
                f"model {request.model[:200]!r} is not served here: leave model out, or name {settings.public_name!r}",
                param="model",
                code="model_not_found",
            )
        if why := offer.refusal(settings.public_name, BATCH_GENERATE, self._fleet.facts):
            raise NotFound(why, code="not_offered")

    def check_attached(self, request: BatchRequest) -> None:
        """What only concerns a batch that lives as long as its client's connection. Raises InvalidRequest."""
        settings = self._settings
        given = {"expires_after_s": request.expires_after_s, "metadata": bytes_of(request.metadata)}
        for name, value in given.items():
            if value is not None:
                raise InvalidRequest(
                    f"{name} is for batches that outlive their connection: set background to true, or send an "
                    "Idempotency-Key",
                    param=name,
                )
        if request.timeout_s is not None and request.timeout_s > settings.max_timeout_s:
            raise InvalidRequest(
                f"timeout_s is {request.timeout_s:g}: at most {settings.max_timeout_s:g} is accepted (--max-timeout-s) "
                "but for batches in the background",
                param="timeout_s",
            )

    async def cut(self, request: BatchRequest) -> AsyncIterator[list[bytes]]:
        """The prompts as the JSON that they came in, some hundreds at a time. Raises TooLarge, and InvalidRequest."""
        most = self._settings.max_batch_items
        prompts = await self._split(request, most)
        if len(prompts) > most:
            raise TooLarge(
                f"the batch has more than {most} prompts, the most that are accepted in one JSON body "
                "(--max-batch-items): split it, or send it as NDJSON",
                param="prompts",
                code="batch_too_large",
            )
        for some in batched(prompts, CUT_ITEMS):
            yield some
            await self.turnstile.pause_when_over()

    async def check_params(self, resolver: SamplingResolver) -> None:
        """The engine's word on batch-wide sampling parameters. Raises InvalidRequest, and TryLater without a rank."""
        await self._engine_check.ask(resolver.batch_wide.wire)

    def resolve(self, request: BatchRequest) -> SamplingResolver:
        """The batch-wide sampling parameters."""
        try:
            return SamplingResolver(self._settings, bytes_of(request.sampling_params), self._known_params)
        except ParamsRefused as refused:
            found = refused.complaint
            raise InvalidRequest(found.message, param=found.param, code="invalid_sampling_params") from refused

    async def _take_apart(self, request: BatchRequest, owner: Owner) -> Entries:
        """The prompts, each as the JSON that it came in. Too many are refused before memory is spent on them."""
        prompts = await self._split(request, self._admission.most_items)
        self._admission.check_size(len(prompts), owner)
        return prompts

    async def _split(self, request: BatchRequest, most: int) -> Entries:
        """As many as may be, and one more if there are more."""
        await self.turnstile.enter()
        return await split(memoryview(request.prompts), most + 1, self._settings.max_prompt_bytes, self.turnstile)


def priority_of(request: BatchRequest, caller: Caller) -> int:
    """The batch's own, or else the nearest to the default that the API key may use."""
    return priority_of_caller(request.priority, caller)


def priority_of_caller(asked: int | None, caller: Caller) -> int:
    """What is asked for, or else the nearest to the default that the API key may use. Raises InvalidRequest."""
    if asked is None:
        return priority_of_key(caller.key)
    limits = caller.key.limits if caller.key else None
    if limits is not None and not limits.allows_priority(asked):
        raise InvalidRequest(
            f"priority is {asked}: this API key may use {limits.priorities}",
            param="priority",
            code="priority_not_allowed",
        )
    return asked


def priority_of_key(key: ApiKey | None) -> int:
    """The nearest to the default that a key may use; None: nobody asked for one."""
    return DEFAULT_PRIORITY if key is None else key.limits.nearest_priority(DEFAULT_PRIORITY)
