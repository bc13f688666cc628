"""Results in the journal: one for each item, in order, grouped into few commits, and read a window at a time."""

import asyncio
import time
import tracemalloc

import pytest

from app.journal.errors import JournalUnavailable, Superseded, WrongState
from app.journal.health import Health
from app.journal.journal import Journal
from app.journal.place import FolderPlace, Place
from app.journal.records import Counts, NewItem, PutReport, TokenUsage
from app.journal.sql import engines, owner
from app.journal.states import BatchState
from tests.journal.stored import ERROR, items, new_batch, opened, queued, results, running, seen


def test_an_item_has_one_result_and_keeps_the_first(place: Place) -> None:
    async def check() -> None:
        async with opened(place) as journal:
            batch = await running(journal, 10)
            tokens = {"prompt_tokens": 2, "completion_tokens": 3, "cached_tokens": 1}
            first = await journal.put_results(batch.ordinal, results([3, 1], **tokens))
            assert first == PutReport(2)
            second = await journal.put_results(batch.ordinal, results([1, 5, 5], ERROR))
            assert second == PutReport(4, (1, 5))
            assert (await journal.put_results(batch.ordinal, results([1, 3], ERROR))).ignored == (1, 3)
            found = await journal.results_after(batch.ordinal)
            assert [(one.seq, one.index, one.status) for one in found] == [(1, 3, "ok"), (2, 1, "ok"), (4, 5, "error")]
            assert found[0].body == b"result 3"
            now = await seen(journal, batch)
            assert (now.counts, now.usage) == (Counts(ok=2, error=1), TokenUsage(4, 6, 2))
            assert now.stored_results == 3 and now.stored_bytes == batch.stored_bytes + 3 * len(b"result 1")
            assert now.last_seq <= found[-1].seq + 1
            assert [item.index for item in await journal.unfinished_items(batch.ordinal)] == [0, 2, 4, 6, 7, 8, 9]

    asyncio.run(check())


def test_results_are_put_into_open_batches_only(place: Place) -> None:
    async def check() -> None:
        async with opened(place) as journal:
            ended, open_one = await queued(journal, 2, "ended"), await running(journal, 2, "open")
            await journal.set_state(ended.ordinal, BatchState.EXPIRED)
            puts = (journal.put_results(one.ordinal, results([0])) for one in (ended, open_one))
            refused, stored = await asyncio.gather(*puts, return_exceptions=True)
            assert isinstance(refused, WrongState) and "is expired: it takes no results" in str(refused)
            assert stored == PutReport(1)  # of the same commit

    asyncio.run(check())


def test_many_writes_are_few_commits(place: Place) -> None:
    async def check() -> None:
        async with opened(place) as journal:
            batches = [await running(journal, 100, f"b{number}") for number in range(5)]
            before = journal.commits
            puts = [journal.put_results(one.ordinal, results([index])) for index in range(100) for one in batches]
            reports = await asyncio.gather(*puts)
            assert journal.commits - before <= 5
            assert not [report for report in reports if report.ignored]
            for one in batches:
                assert (await seen(journal, one)).counts == Counts(ok=100)
                assert {found.seq for found in await journal.results_after(one.ordinal)} == set(range(1, 101))

    asyncio.run(check())


def test_a_write_that_the_database_refuses_fails_alone(place: Place) -> None:
    async def check() -> None:
        async with opened(place) as journal:
            batch = await running(journal, 2)
            wrong = journal.create(new_batch("b"))  # an id that is there: no gateway makes one twice
            outcomes = await asyncio.gather(
                journal.put_results(batch.ordinal, results([0])),
                wrong,
                journal.put_results(batch.ordinal, results([1])),
                return_exceptions=True,
            )
            assert isinstance(outcomes[1], Exception) and "unique" in str(outcomes[1]).lower()
            assert (await seen(journal, batch)).counts == Counts(ok=2)

    asyncio.run(check())


def test_a_caller_who_leaves_changes_nothing_for_the_others(place: Place) -> None:
    async def check() -> None:
        async with opened(place) as journal:
            batch = await running(journal, 3)
            tasks = [asyncio.ensure_future(journal.put_results(batch.ordinal, results([index]))) for index in range(3)]
            await asyncio.sleep(0)
            tasks[1].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await journal.sizes()
            assert (await journal.put_results(batch.ordinal, results([0, 2]))).ignored == (0, 2)

    asyncio.run(check())


def test_windows_are_bounded_in_rows_and_in_bytes(place: Place) -> None:
    async def check() -> None:
        async with opened(place) as journal:
            batch = await journal.create(new_batch())
            bodies = [b"x" * size for size in (100, 100, 5000, 100, 100, 100)]
            await journal.append(batch.ordinal, [NewItem(body) for body in bodies])
            await journal.seal(batch.ordinal)

            async def window(after: int, **bounds: int) -> list[int]:
                return [item.index for item in await journal.unfinished_items(batch.ordinal, after, **bounds)]

            assert await window(-1) == [0, 1, 2, 3, 4, 5]
            assert await window(-1, limit=2) == [0, 1]
            assert await window(-1, max_bytes=250) == [0, 1]
            assert await window(1, max_bytes=250) == [2]  # one in any case
            assert await window(2, max_bytes=250) == [3, 4]
            assert await window(5) == []
            await journal.put_results(batch.ordinal, results([1, 3]))
            assert await window(0, limit=2) == [2, 4]
            found = await journal.results_after(batch.ordinal, 0, max_bytes=1)
            assert [one.seq for one in found] == [1]

    asyncio.run(check())


async def windows(journal: Journal, ordinal: int, limit: int) -> tuple[int, float]:
    """How many items there are, and the slowest window."""
    after, total, slowest = -1, 0, 0.0
    while True:
        began = time.perf_counter()
        window = await journal.unfinished_items(ordinal, after, limit)
        slowest = max(slowest, time.perf_counter() - began)
        if not window:
            return total, slowest
        after, total = window[-1].index, total + len(window)


def test_reading_a_large_batch_takes_the_memory_of_a_window(place: Place) -> None:
    async def check() -> None:
        async with opened(place) as journal:
            batch = await journal.create(new_batch())
            for start in range(0, 60_000, 2000):
                await journal.append(batch.ordinal, items(2000, start))
            await journal.seal(batch.ordinal)
            await windows(journal, batch.ordinal, 500)  # what is cached once
            tracemalloc.start()
            try:
                total, slowest = await windows(journal, batch.ordinal, 500)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert total == 60_000
            assert peak < 2 * 1024**2  # the items are 7 MB
            assert slowest < 2.0

    asyncio.run(check())


def test_a_gateway_that_was_superseded_stores_nothing_more(place: Place) -> None:
    async def check() -> None:
        heard: list[tuple[Health, str]] = []
        async with opened(place, heard=heard) as journal:
            batch = await running(journal, 2)
            engine = engines.writing_engine(place)
            with engine.begin() as connection:  # as from another machine, past all locks
                assert owner.take_over(connection, "pid 7 on elsewhere") == journal.epoch + 1
            engine.dispose()
            for index in range(2):
                with pytest.raises(Superseded, match="pid 7 on elsewhere"):
                    await journal.put_results(batch.ordinal, results([index]))
            assert [health for health, _ in heard] == [Health.SUPERSEDED]
            assert await journal.results_after(batch.ordinal) == []

    asyncio.run(check())


def test_closing_writes_what_waits(place: Place) -> None:
    async def check() -> None:
        async with opened(place) as journal:
            batch = await running(journal, 50)
            puts = [asyncio.ensure_future(journal.put_results(batch.ordinal, results([n]))) for n in range(50)]
            await asyncio.sleep(0)
            await journal.close()
            assert len(await asyncio.gather(*puts)) == 50
            for late in (journal.sizes(), journal.put_results(batch.ordinal, results([1]))):
                with pytest.raises(JournalUnavailable, match="the service is stopping"):
                    await late
        if isinstance(place, FolderPlace):
            assert {path.name for path in place.folder.iterdir()} == {"journal.sqlite3", "lock"}
        async with opened(place) as journal:
            assert (await seen(journal, batch)).counts == Counts(ok=50)

    asyncio.run(check())
