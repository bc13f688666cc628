"""What a batch would be, without running it: the tokens of its items, those that would be refused, and its time.

It is taken in as a batch that runs, and a rank counts its items as it would prepare them. It takes no credit and
enters no backlog.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import msgspec
from msgspec import UNSET, UnsetType

from app.batches.acceptance import Acceptance
from app.batches.asking import first_answer
from app.batches.availability import Availability
from app.batches.forecasts import Forecasts
from app.batches.memory import Holding
from app.batches.prediction import BatchSize
from app.batches.request import BatchRequest
from app.batches.results import ResultError, Status, result_error
from app.batches.sink import Brake, Rest
from app.dispatch.item import Item
from app.errors import InvalidRequest, TryLater
from app.keys.ring import Caller
from app.ranks.fleet import Fleet
from app.ranks.rank import Rank
from engines.contract.protocol import ItemSize, Result

MAX_CONCURRENT = 2  # dry runs: more would only get in each other's way, on ranks that have other work
MAX_WAITING = 64  # dry runs whose turn has not come
RETRY_S = 5.0
CHUNK_ITEMS = 500  # in one question to a rank, which is answered within about a second
CHUNK_BYTES = 1024 * 1024
ASK_ANOTHER_S = 10.0


class DryRunCounts(msgspec.Struct, kw_only=True):
    """How many items a batch has, and how many of them would run."""

    total: int
    accepted: int
    refused: int


class DryRunItem(msgspec.Struct, kw_only=True):
    """What one prompt would be."""

    index: int
    custom_id: str | None
    prompt_tokens: int = 0
    max_completion_tokens: int = 0
    error: ResultError | UnsetType = UNSET


class DryRun(msgspec.Struct, kw_only=True):
    """The answer to a dry run."""

    object: str = "batch_generation.dry_run"
    model: str
    request_counts: DryRunCounts
    prompt_tokens: int
    max_completion_tokens: int
    predicted_completion_tokens: int | None = None  # None: nothing was measured yet
    predicted_s: float | None = None
    items: list[DryRunItem]


class _Refused(msgspec.Struct):
    """What is read of a result that the gateway itself has made."""

    custom_id: str | None
    error: ResultError


_decode_refused = msgspec.json.Decoder(_Refused).decode


class Refusals:
    """The sink of a batch that never runs: it gets the results of items that no rank would see."""

    def __init__(self, size: int) -> None:
        self.items: list[DryRunItem | None] = [None] * size

    def open(self, brake: Brake) -> None:
        """It never is."""

    def put(self, index: int, encoded: bytes, status: Status, result: Result) -> None:
        """An item that was refused."""
        found = _decode_refused(encoded)
        self.items[index] = DryRunItem(index=index, custom_id=found.custom_id, error=found.error)

    def close(self, rest: Rest | None) -> None:
        """All were refused."""


class Chunk(msgspec.Struct):
    """Items for one question, with the parameters that they share."""

    params: dict[bytes, int] = {}  # to their places
    items: list[Item] = []
    size: int = 0  # bytes

    def add(self, item: Item) -> None:
        """One more."""
        self.size += len(item.prompt) + len(item.tools or b"") + len(item.template_kwargs or b"")
        if item.params not in self.params:
            self.params[item.params] = len(self.params)
            self.size += len(item.params)
        self.items.append(item)

    @property
    def is_full(self) -> bool:
        """Whether it is enough for one question."""
        return len(self.items) >= CHUNK_ITEMS or self.size >= CHUNK_BYTES


def chunks(items: list[Item]) -> Iterator[Chunk]:
    """The items in their order, each chunk with some of them and no more than a little beyond CHUNK_BYTES or one."""
    chunk = Chunk()
    for item in items:
        chunk.add(item)
        if chunk.is_full:
            yield chunk
            chunk = Chunk()
    if chunk.items:
        yield chunk


class DryRuns:
    """Makes them, a few at a time and in the order in which they came."""

    def __init__(self, acceptance: Acceptance, fleet: Fleet, availability: Availability, forecasts: Forecasts) -> None:
        self._forecasts = forecasts
        self._acceptance = acceptance
        self._fleet = fleet
        self._availability = availability
        self._turns = asyncio.Semaphore(MAX_CONCURRENT)
        self._waiting = 0

    async def run(self, request: BatchRequest, caller: Caller, holding: Holding) -> DryRun:
        """What the batch would be. Raises RequestError: a 503 when no rank answers."""
        _check(request)
        async with self._turn():
            run = await self._acceptance.take_in(request, caller, holding, Refusals, will_run=False)
            found = run.sink.items
            sequences = 0
            for chunk in chunks(run.items):
                for item, size in zip(chunk.items, await self._count(chunk), strict=True):
                    found[item.index] = _described(item, size, run.record.label(item.index).custom_id)
                    sequences += item.sequences if size.error is None else 0
        planned = _summed(run.record.model, [item for item in found if item is not None])
        predicted_s = self._forecasts.seconds_for(run.flow, BatchSize(sequences, planned.max_completion_tokens))
        planned.predicted_s = None if predicted_s is None else round(predicted_s, 3)
        planned.predicted_completion_tokens = self._forecasts.used_tokens(planned.max_completion_tokens)
        return planned

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        if self._waiting >= MAX_WAITING:
            raise TryLater(
                f"{self._waiting} dry runs wait for their turn, and no more may: try again in about {RETRY_S:.0f} s",
                status=429,
                code="dry_runs_full",
                retry_after_s=RETRY_S,
            )
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turns.release()

    async def _count(self, chunk: Chunk) -> list[ItemSize]:
        self._availability.check()
        messages = [item.message(chunk.params[item.params]) for item in chunk.items]

        async def count(rank: Rank) -> list[ItemSize]:
            return await self._fleet.questions.count(rank.number, rank.incarnation, list(chunk.params), messages)

        return await first_answer(self._fleet, self._availability, count, ASK_ANOTHER_S)


def _check(request: BatchRequest) -> None:
    for name in ("background", "stream"):
        if getattr(request, name):
            raise InvalidRequest(
                f"dry_run and {name} are both true: a dry run is answered at once and whole, leave {name} out",
                param=name,
            )


def _described(item: Item, size: ItemSize, custom_id: str | None) -> DryRunItem:
    if size.error is not None:
        error = result_error(size.error, f"prompts[{item.index}]")
        return DryRunItem(index=item.index, custom_id=custom_id, error=error)
    return DryRunItem(
        index=item.index,
        custom_id=custom_id,
        prompt_tokens=size.prompt_tokens,
        max_completion_tokens=item.sequences * size.max_tokens,
    )


def _summed(model: str, items: list[DryRunItem]) -> DryRun:
    refused = sum(item.error is not UNSET for item in items)
    return DryRun(
        model=model,
        request_counts=DryRunCounts(total=len(items), accepted=len(items) - refused, refused=refused),
        prompt_tokens=sum(item.prompt_tokens for item in items),
        max_completion_tokens=sum(item.max_completion_tokens for item in items),
        items=items,
    )
