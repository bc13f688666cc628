"""Results as their readers get them, from a journal that has been through something. No rank runs."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from app.batches.detached.options import encode_options
from app.batches.detached.reading import Wanted
from app.batches.request import BatchRequest
from app.gateway import Gateway
from app.journal.errors import WrongState
from app.journal.records import NewItem, NewResult, StoredBatch
from app.journal.sql import resuming
from app.journal.states import BatchState, ResultStatus
from app.ranks.devices import allot
from app.settings.declaration import Settings
from tests.journal.stored import new_batch

DEADLINE_S = 20.0
OPTIONS = encode_options(BatchRequest(prompts=b""))  # type: ignore[arg-type]  # is replaced


@asynccontextmanager
async def storing(folder: Path) -> AsyncIterator[tuple[Gateway, StoredBatch]]:
    """A gateway whose ranks are never started, and a batch of three items, the last of which may run again."""
    settings = Settings(engine="simulated", data_dir=str(folder / "data"))  # type: ignore[arg-type]  # as from a flag
    gateway = Gateway(settings, {"HOME": str(folder)}, allot(settings, {}))
    await gateway.keeper.open()
    journal = gateway.keeper.journal
    try:
        created = await journal.create(new_batch(options=OPTIONS))
        await journal.append(created.ordinal, [NewItem(b'"%d"' % index) for index in range(3)])
        batch = await journal.seal(created.ordinal)
        await journal.put_results(batch.ordinal, [result(0), result(1), result(2, retryable=True)])
        await journal.set_state(batch.ordinal, BatchState.COMPLETED)
        async with asyncio.timeout(DEADLINE_S):
            yield gateway, await journal.resume(batch.ordinal)
    finally:
        await gateway.stop()


def result(index: int, *, retryable: bool = False) -> NewResult:
    status = ResultStatus.ERROR if retryable else ResultStatus.OK
    return NewResult(index=index, status=status, body=b'{"index":%d}' % index, retryable=retryable)


async def read(gateway: Gateway, batch: StoredBatch, **wanted: Any) -> list[dict[str, Any]]:
    pieces = [piece async for piece in gateway.detached.results.lines(batch, Wanted(**wanted))]
    return [json.loads(line) for line in b"".join(pieces).splitlines()]


def test_nobody_waits_for_the_number_of_a_result_that_was_taken_back(tmp_path: Path) -> None:
    async def check() -> None:
        async with storing(tmp_path) as (gateway, batch):
            assert (batch.last_seq, batch.unfinished) == (3, 1)
            (progress,) = await read(gateway, batch, after=2)
            assert progress["object"] == "batch_generation.progress" and progress["last_seq"] == 3
            await gateway.keeper.journal.set_state(batch.ordinal, BatchState.CANCELLED)
            made_up, summary = await read(gateway, batch, after=2)
            assert (made_up["index"], made_up["status"], made_up["seq"]) == (2, "cancelled", 3)
            assert summary["status"] == "cancelled"

    asyncio.run(check())


def test_a_result_that_came_twice_leaves_a_gap_that_no_reader_falls_into(tmp_path: Path) -> None:
    async def check() -> None:
        async with storing(tmp_path) as (gateway, batch):
            await gateway.keeper.journal.put_results(batch.ordinal, [result(2), result(1), result(0)])
            await gateway.keeper.journal.set_state(batch.ordinal, BatchState.COMPLETED)
            *lines, summary = await read(gateway, batch, is_following=True)
            assert [line["index"] for line in lines if "index" in line] == [0, 1, 2]
            assert summary["request_counts"]["ok"] == 3

    asyncio.run(check())


def test_a_batch_that_was_resumed_halfway_when_the_gateway_ended_is_read_as_far_as_it_is(tmp_path: Path) -> None:
    async def check() -> None:
        async with storing(tmp_path) as (gateway, batch):
            await gateway.keeper.journal.put_results(batch.ordinal, [result(2, retryable=True)])
            completed = await gateway.keeper.journal.set_state(batch.ordinal, BatchState.COMPLETED)
            await gateway.keeper.journal._writer.write(lambda db: resuming.take_back(db, batch.ordinal, 0, 10))
            assert completed.unfinished == 0
            *lines, summary = await read(gateway, batch)
            assert [line["index"] for line in lines] == [0, 1] and summary["status"] == "completed"
            whole = b"".join([piece async for piece in gateway.detached.results.whole(completed)])
            assert [found["index"] for found in json.loads(whole)["results"]] == [0, 1]

    asyncio.run(check())


def test_two_resumes_at_once_are_one(tmp_path: Path) -> None:
    async def check() -> None:
        async with storing(tmp_path) as (gateway, batch):
            journal = gateway.keeper.journal
            await journal.put_results(batch.ordinal, [result(2, retryable=True)])
            await journal.set_state(batch.ordinal, BatchState.COMPLETED)
            done = await asyncio.gather(*(journal.resume(batch.ordinal) for _ in range(5)), return_exceptions=True)
            assert [type(one).__name__ for one in done].count("StoredBatch") == 1
            assert all(isinstance(one, StoredBatch | WrongState) for one in done)

    asyncio.run(check())
