"""Exchanges: how a request in OpenAI's API is accepted, and what becomes of all that are under way."""

import asyncio
from collections import defaultdict
from collections.abc import Callable

from app.batches.acceptance import priority_of_caller
from app.batches.admission import AdmissionGate, Asked, owner_of
from app.batches.availability import Availability
from app.batches.memory import Holding
from app.batches.rate import RateMeter
from app.dispatch.dispatcher import Dispatcher
from app.dispatch.item import Flow, Item
from app.errors import InvalidRequest, NotFound
from app.exchanges.exchange import Answering, ExchangeRun
from app.exchanges.items import make_item, max_tokens_of
from app.exchanges.many import ManyAnswers
from app.exchanges.parts import Part, parts_of
from app.exchanges.poison import Convictions
from app.exchanges.request import ExchangeRequest
from app.journal.usage_meter import UsageMeter
from app.keys.ring import Caller
from app.logs import get_logger
from app.metrics import Metrics
from app.ranks import offer
from app.ranks.fleet import Fleet
from app.settings.declaration import Settings
from app.traces import Traces
from engines.contract.exchanges import Exchange, ExchangeHead
from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.protocol import Result, Taken

logger = get_logger("exchanges")
REQUEST = Asked("request", None, "split its prompts, or lower max_tokens or n")


class Exchanges:
    """Owns those that are under way."""

    def __init__(
        self,
        settings: Settings,
        fleet: Fleet,
        availability: Availability,
        admission: AdmissionGate,
        dispatcher: Dispatcher,
        rate: RateMeter,
        metrics: Metrics,
        usage: UsageMeter,
        traces: Traces,
        soon: Callable[[Callable[[], None]], None],
    ) -> None:
        self._settings = settings
        self._fleet = fleet
        self._availability = availability
        self._admission = admission
        self._dispatcher = dispatcher
        self._rate = rate
        self._metrics = metrics
        self._usage = usage
        self._traces = traces
        self._soon = soon
        self._convictions = Convictions()
        self._active: set[ExchangeRun] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._taken: dict[tuple[int, int, int], int] = {}  # bytes that ranks are about to be told of

    # -- beginning

    def begin(
        self, path: Exchange, body: bytes | bytearray, caller: Caller, request_id: str, holding: Holding
    ) -> "BegunExchange":
        """Accepts a request. Raises RequestError."""
        self._availability.check()
        request = ExchangeRequest(path, body)
        self.check(request)
        parts = parts_of(request, self._settings.max_batch_items)
        max_tokens = max_tokens_of(request, self._settings.default_max_tokens, self._fleet.max_model_len)
        tokens = request.prompt_tokens + sum(part.prompts for part in parts) * request.sequences * max_tokens
        owner = owner_of(caller)
        self._admission.check_size(len(parts), owner, REQUEST)
        self._admission.check_share(owner, len(parts))
        self._admission.check_room(len(parts), tokens, REQUEST)
        for part in parts:
            self._check_convictions(path, part.body)
            holding.take(len(part.body))
        priority = priority_of_caller(request.priority, caller)
        runs = []
        for number, part in enumerate(parts):
            name = f"{request_id}-{number}" if number else request_id
            run = ExchangeRun(
                path,
                Flow(priority, owner, is_online=True),
                caller.tenant,
                holding,
                self._tell_taken,
                self._done,
                self._traces.batch(1),
            )
            run.is_request = number == 0
            head = ExchangeHead(path, name, request.streams)
            sequences = part.prompts * request.sequences
            run.item = make_item(
                run, run.flow, 0, part.body, head, max_tokens=max_tokens, sequences=sequences, stream=run
            )
            runs.append(run)
        for run in runs:
            self._active.add(run)
            self._rate.busy()
            if path.is_instant:
                self._dispatcher.submit_instant(run.flow, run.item)
            else:
                self._dispatcher.submit(run.flow, [run.item])
        self._idle.clear()
        return BegunExchange(request, parts, runs, self.cancel)

    def check(self, request: ExchangeRequest) -> None:
        """What can be said of a request before anybody answers it. Raises RequestError."""
        served = self._settings.public_name
        if request.model and request.model != served:
            raise NotFound(
                f"model {request.model[:200]!r} is not served here: use {served!r}",
                param="model",
                code="model_not_found",
            )
        if why := self.refusal(request.path):
            raise NotFound(why, code="not_offered")
        request.check_state()
        if (excess := request.excess(self._settings.max_n)) is not None:
            raise InvalidRequest(excess.message, param=excess.param)

    def refusal(self, path: str) -> str | None:
        """Why the served model has no such path; None if it has, or while nobody knows."""
        return offer.refusal(self._settings.public_name, path, self._fleet.facts)

    def _check_convictions(self, path: Exchange, body: bytes) -> None:
        left_s = self._convictions.seconds_left(path, body)
        if left_s:
            raise InvalidRequest(
                f"this very request has crashed its engine; it is refused for {left_s:.0f} s more: change it",
                code=str(ItemErrorCode.POISONED),
            )

    # -- ending

    def cancel(self, run: ExchangeRun) -> None:
        """Its client is gone: it is given up, in the backlog and on the rank."""
        if run in self._active and run.ending is None:
            self._dispatcher.cancel(run.flow)
            self._forget(run)
            self._count(run, "cancelled", None)

    def end_all(self, error: ItemError) -> None:
        """All that have no answer get this error."""
        for run in list(self._active):
            self._dispatcher.cancel(run.flow)
            self._forget(run)
            run.fail(error)
            self._count(run, "error", None)

    async def wait_idle(self) -> None:
        """Until none is under way."""
        await self._idle.wait()

    @property
    def active(self) -> int:
        """Those that are under way."""
        return len(self._active)

    def _done(self, run: ExchangeRun, result: Result) -> None:
        if result.error is not None and result.error.code is ItemErrorCode.POISONED:
            self._convictions.add(run.path, run.item.prompt)
        if run in self._active:
            self._forget(run)
            if run.was_broken_off:  # whatever came of its trial, its client has had an error, and no answer
                self._count(run, "error", None)
            else:
                self._count(run, "ok" if result.error is None else "error", result)

    def _forget(self, run: ExchangeRun) -> None:
        self._active.remove(run)
        self._rate.done()
        if not self._active:
            self._idle.set()

    def _count(self, run: ExchangeRun, status: str, result: Result | None) -> None:
        used = {
            "prompt_tokens": result.prompt_tokens if result else 0,
            "completion_tokens": result.completion_tokens if result else 0,
        }
        self._metrics.exchange_ended(str(run.path), status, run.first_byte_s)
        self._metrics.tenant_used(run.tenant, 1, **used)
        self._usage.add(run.tenant, requests=int(run.is_request), items=1, **used)

    # -- what clients have taken

    def _tell_taken(self, item: Item, size: int) -> None:
        if not self._taken:
            self._soon(self._send_taken)
        attempt = (item.rank, item.incarnation, item.attempt)
        self._taken[attempt] = self._taken.get(attempt, 0) + size

    def _send_taken(self) -> None:
        taken, self._taken = self._taken, {}
        messages: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        for (rank, incarnation, attempt), size in taken.items():
            messages[rank, incarnation].append((attempt, size))
        for (rank, incarnation), sizes in messages.items():
            self._fleet.send(rank, Taken(incarnation=incarnation, taken=sizes))


class BegunExchange:
    """What a response needs of an exchange that was accepted."""

    def __init__(
        self,
        request: ExchangeRequest,
        parts: list[Part],
        runs: list[ExchangeRun],
        cancel: Callable[[ExchangeRun], None],
    ) -> None:
        self.path = request.path
        self.streams = request.streams
        self.answer: Answering = runs[0] if len(runs) == 1 else ManyAnswers(request, parts, runs)
        self._runs = runs
        self._cancel = cancel

    def cancel(self) -> None:
        """Nobody wants the answer any more. May be called twice, and after its end."""
        for run in self._runs:
            self._cancel(run)
