"""What becomes of a detached batch when its step and the present differ, by the journal itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from app.batches.detached.running import Ending, OpenBatch
from app.batches.detached.states import BatchStates
from app.journal.place import FolderPlace
from app.journal.states import BatchState
from tests.journal.stored import queued, results, running, seen
from tests.journal.test_journal_keeper import kept

SERVED = b'{"seed":1}'
NO_RANK = "no rank is left"


@asynccontextmanager
async def stepping(folder: Path) -> AsyncIterator[tuple[BatchStates, OpenBatch]]:
    """A batch of two items in progress, one of which has its result."""
    async with kept(FolderPlace(folder / "data"), folder) as keeper:
        stored = await running(keeper.journal, 2, answer_settings=SERVED)
        await keeper.journal.put_results(stored.ordinal, results([0]))
        yield BatchStates(keeper, SERVED), OpenBatch(await seen(keeper.journal, stored))


def test_a_hold_whose_reason_has_gone_meanwhile_is_none(tmp_path: Path) -> None:
    async def check() -> None:
        async with stepping(tmp_path) as (states, batch):
            assert await states.become(batch, Ending(BatchState.HELD, NO_RANK)) is BatchState.QUEUED
            assert batch.stored.reason is None

    asyncio.run(check())


def test_what_is_to_run_again_is_held_when_no_rank_is_left_meanwhile(tmp_path: Path) -> None:
    async def check() -> None:
        async with stepping(tmp_path) as (states, batch):
            states.no_hope = NO_RANK
            assert await states.become(batch, Ending(BatchState.QUEUED)) is BatchState.HELD
            assert batch.stored.reason == NO_RANK
            states.no_hope = None
            assert await states.become(batch, Ending(BatchState.QUEUED)) is BatchState.QUEUED

    asyncio.run(check())


def test_a_time_that_is_over_and_a_cancel_go_before_a_hold(tmp_path: Path) -> None:
    async def check() -> None:
        async with stepping(tmp_path) as (states, batch):
            states.no_hope = NO_RANK
            batch.overdue = Ending(BatchState.EXPIRED, "late")
            assert await states.become(batch, Ending(BatchState.HELD, NO_RANK)) is BatchState.EXPIRED
            assert (batch.stored.reason, batch.stored.counts.timeout) == ("late", 1)

    async def check_cancel() -> None:
        async with kept(FolderPlace(tmp_path / "other"), tmp_path) as keeper:
            states = BatchStates(keeper, SERVED)
            batch = OpenBatch(await queued(keeper.journal, 2, answer_settings=SERVED))
            await keeper.journal.request_cancel(batch.stored.ordinal)  # of which this gateway was not told
            states.no_hope = NO_RANK
            assert await states.become(batch, Ending(BatchState.HELD, NO_RANK)) is BatchState.CANCELLED

    asyncio.run(check())
    asyncio.run(check_cancel())


def test_a_batch_that_cannot_be_completed_does_not_stay_open(tmp_path: Path) -> None:
    async def check() -> None:
        async with stepping(tmp_path) as (states, batch):
            before = batch.stored
            assert await states.become(batch, Ending(BatchState.COMPLETED)) is BatchState.FAILED
            assert batch.stored.reason == "1 of its items have no result: resume it to run them"
            other_task = OpenBatch(before)
            assert await states.become(other_task, Ending(BatchState.CANCELLED)) is BatchState.FAILED, "it has ended"

    asyncio.run(check())
