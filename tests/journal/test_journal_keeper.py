"""The journal's life in a gateway, without the gateway: what is removed by its age, counted, told and left behind."""

import asyncio
import fcntl
import math
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from app import logs
from app.errors import TryLater
from app.journal.errors import JournalUnavailable, NoSuchBatch, QuotaExceeded, WrongState
from app.journal.health import not_measured
from app.journal.keeper import TEMPORARY_PREFIX, JournalKeeper
from app.journal.place import FILE_NAME, FolderPlace
from app.journal.records import DayUsage, Quotas
from app.journal.refusals import refusal_of
from app.journal.states import BatchState
from app.journal.usage_meter import UsageMeter
from engines.contract.spec import RUNTIME_LOCK
from tests.journal.stored import queued, results, running

DAYS = ("2000-01-01", "2999-12-31")
LONG_S = 86400.0


def fail(what: str, error: BaseException) -> None:
    raise AssertionError(what) from error


@asynccontextmanager
async def kept(place: FolderPlace | None, temporary: Path, retention_s: float = LONG_S) -> AsyncIterator[JournalKeeper]:
    keeper = JournalKeeper(place, temporary, Quotas(), retention_s, not_measured, fail)
    await keeper.open()
    try:
        yield keeper
    finally:
        await keeper.close()
        await keeper.close()


async def until(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not look():  # noqa: ASYNC110  as everywhere in the tests: for a condition, with a deadline
            await asyncio.sleep(0.02)


def table(place: FolderPlace, name: str) -> list[tuple[str, int]]:
    """How many rows of this table which batch has."""
    counted = f"SELECT id, count(*) FROM {name} JOIN batches ON ordinal = batch GROUP BY id"  # noqa: S608  a constant
    with closing(sqlite3.connect(place.file)) as connection:
        return connection.execute(counted).fetchall()


def test_batches_go_when_they_ended_long_ago_and_their_rows_with_them(tmp_path: Path) -> None:
    place = FolderPlace(tmp_path / "data")

    async def check() -> None:
        async with kept(place, tmp_path) as keeper:
            old = await running(keeper.journal, 2, "old")
            await keeper.journal.put_results(old.ordinal, results(range(2)))
            await keeper.journal.set_state(old.ordinal, BatchState.COMPLETED)
            await queued(keeper.journal, 3, "open")
        async with kept(place, tmp_path, retention_s=0.01) as keeper:
            await until(lambda: table(place, "items") == [("open", 3)])
            assert await keeper.journal.get("old", None) is None
            deleted = await queued(keeper.journal, 1, "deleted")
            await keeper.journal.set_state(deleted.ordinal, BatchState.CANCELLED)
            await keeper.journal.delete(deleted.ordinal)
            keeper.sweep_soon()
            await until(lambda: table(place, "items") == [("open", 3)])
            assert table(place, "results") == []

    asyncio.run(check())


def test_what_is_kept_of_usage_is_written_in_the_end_by_day_and_tenant(tmp_path: Path) -> None:
    place = FolderPlace(tmp_path / "data")

    async def check() -> None:
        async with kept(place, tmp_path) as keeper:
            keeper.usage.add("a", requests=1, items=2, prompt_tokens=3, completion_tokens=4)
            keeper.usage.add("b", items=1)
            keeper.usage.add("a", requests=1, items=20)
            assert await keeper.journal.usage(None, *DAYS) == []
        async with kept(place, tmp_path) as keeper:
            a, b = await keeper.journal.usage(None, *DAYS)
            assert a == DayUsage("a", a.day, 2, 22, 3, 4) and b == DayUsage("b", b.day, 0, 1)

    asyncio.run(check())


def test_usage_that_cannot_be_written_waits() -> None:
    logs.configure("json", "info")
    written: list[DayUsage] = []
    is_full = True

    async def write(used: DayUsage) -> None:
        if is_full:
            raise JournalUnavailable("the disk is full")
        written.append(used)

    async def check() -> None:
        nonlocal is_full
        meter = UsageMeter(write)
        meter.start(fail)
        meter.add("a", requests=1)
        await meter.flush()
        meter.add("a", requests=1)
        is_full = False
        await meter.flush()
        assert [used.requests for used in written] == [2]
        meter.add("a", requests=1)
        is_full = True
        await meter.stop()
        await meter.stop()

    asyncio.run(check())


def test_figures_tell_how_full_it_is(tmp_path: Path) -> None:
    place = FolderPlace(tmp_path / "data")

    async def check() -> None:
        async with kept(place, tmp_path) as keeper:
            await queued(keeper.journal, 3)
        async with kept(place, tmp_path) as keeper:
            await until(lambda: keeper.figures.sizes.items == 3)
            assert keeper.figures.disk.file_bytes >= place.file.stat().st_size
            assert keeper.figures.disk.free_bytes > 0 and not math.isnan(keeper.figures.disk.free_bytes)

    asyncio.run(check())


def test_whoever_listens_hears_when_writing_stops_and_goes_on(tmp_path: Path) -> None:
    place = FolderPlace(tmp_path / "data")
    heard: list[str] = []

    async def check() -> None:
        async with kept(place, tmp_path) as keeper:
            keeper.on_change(lambda: heard.append(keeper.health.status))
            keeper.check()
            place.file.rename(tmp_path / FILE_NAME)
            keeper.usage.add("a", items=1)
            await keeper.usage.flush()
            with pytest.raises(TryLater, match=r"stored now \(the database file was replaced") as refused:
                keeper.check()
            assert (refused.value.status, refused.value.code) == (503, "journal_unavailable")
            (tmp_path / FILE_NAME).rename(place.file)
            await until(lambda: heard == ["unavailable", "available"])
            keeper.check()

    asyncio.run(check())


def test_whoever_is_refused_finds_that_known(tmp_path: Path) -> None:
    """Also whom the writer refuses at once, for it gave up for another one's sake."""
    place = FolderPlace(tmp_path / "data")
    used = DayUsage("a", DAYS[0], 1)

    async def check() -> None:
        async with kept(place, tmp_path) as keeper:
            place.file.rename(tmp_path / FILE_NAME)
            first = asyncio.create_task(keeper.journal.add_usage(used))
            await asyncio.sleep(0)
            time.sleep(0.5)  # noqa: ASYNC251  the writer gives up, and the event loop has not heard of it
            assert keeper.health.status == "available"
            with pytest.raises(JournalUnavailable):
                await keeper.journal.add_usage(used)
            assert keeper.health.status == "unavailable"
            with pytest.raises(JournalUnavailable):
                await first

    asyncio.run(check())


def test_a_journal_that_is_not_to_be_kept_goes_and_so_does_what_a_killed_one_has_left(tmp_path: Path) -> None:
    async def folders_meanwhile() -> int:
        async with kept(None, tmp_path) as keeper:
            await queued(keeper.journal, 1)
            return len(folders(tmp_path))

    other = tmp_path / f"{TEMPORARY_PREFIX}other"
    other.mkdir()
    with (other / RUNTIME_LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert asyncio.run(folders_meanwhile()) == 2
        assert folders(tmp_path) == [other], "it is still in use"
    assert asyncio.run(folders_meanwhile()) == 1
    assert folders(tmp_path) == []


def folders(parent: Path) -> list[Path]:
    return list(parent.iterdir())


def test_what_the_journal_refuses_is_answered_with_what_can_be_done() -> None:
    full, never = QuotaExceeded("items", "t", 9, 2, 10), QuotaExceeded("items", None, 0, 20, 10)
    answers = [refusal_of(error) for error in (full, never, NoSuchBatch("gone"), WrongState("open"))]
    assert [(answer.status, answer.code) for answer in answers] == [
        (429, "quota_exceeded"),
        (413, "quota_exceeded"),
        (404, "batch_not_found"),
        (409, "wrong_state"),
    ]
    assert answers[0].retry_after_s
    unavailable = refusal_of(JournalUnavailable("the disk is full", "/secret/path"))
    assert unavailable.status == 503 and "/secret" not in str(unavailable)
