"""What the journal takes: results a second, a million items in, and reads from the midst; on SQLite and PostgreSQL.

The disk counts: run it where the data folder will be (--folder). PostgreSQL runs in a temporary folder of its own, with
its default settings.
"""

import argparse
import asyncio
import os
import resource
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from app.journal.journal import Journal
from app.journal.opening import open_journal, upgrade
from app.journal.place import FolderPlace, Place, ServerPlace
from app.journal.records import NewBatch, NewItem, NewResult, Quotas
from app.journal.states import BatchState, ResultStatus
from bench.processes import folder_bytes
from tests.postgres import MISSING, Cluster, binaries

T = TypeVar("T")
ITEM = b'{"custom_id": "row-%08d", "prompt": "%s"}'
PROMPT = b"Name the capital of a country, and say when it became that. " * 3
CHUNK = 1000
WRITERS = 16  # batches that run at once
TICK = 64  # results of one put: about what a rank sends at once


def main(arguments: list[str], prog: str) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--results", type=int, default=200_000, help="for each of the measurements of results/s")
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="on the disk to measure")
    parser.add_argument("--store", choices=["sqlite", "postgres", "both"], default="both")
    given = parser.parse_args(arguments)
    if given.store != "postgres":
        with tempfile.TemporaryDirectory(dir=given.folder, prefix="journal.") as folder:
            place = FolderPlace(Path(folder))
            asyncio.run(measure("SQLite", place, given, lambda: folder_bytes(Path(folder))))
    if given.store != "sqlite":
        if binaries() is None:
            print(MISSING)
            return 1
        tempfile.tempdir = str(given.folder)
        os.umask(0o022)
        cluster = Cluster()
        try:
            server = ServerPlace(cluster.url())
            upgrade(server)
            asyncio.run(measure("PostgreSQL", server, given, lambda: folder_bytes(cluster.folder / "data" / "base")))
        finally:
            cluster.remove()
    return 0


async def measure(name: str, place: Place, given: argparse.Namespace, disk: Callable[[], int]) -> None:
    """All figures of one store."""
    print(f"{name}, {os.cpu_count()} cores, {given.folder}")
    async with opened(place) as journal:
        before = disk()
        ordinal = await timed(
            f"append {given.items:,} items in chunks of {CHUNK}", running(journal, "large", given.items)
        )
        line("bytes on disk an item", f"{(disk() - before) / given.items:.0f} of {len(item(0).body)} sent")
        await reads(journal, ordinal, given.items)
        await rates(journal, given.results)
    line("most memory", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


async def running(journal: Journal, name: str, size: int) -> int:
    """A batch of so many items, which runs; its ordinal."""
    batch = await journal.create(new_batch(name))
    for first in range(0, size, CHUNK):
        await journal.append(batch.ordinal, [item(index) for index in range(first, min(size, first + CHUNK))])
    await journal.seal(batch.ordinal)
    await journal.set_state(batch.ordinal, BatchState.IN_PROGRESS)
    return batch.ordinal


async def reads(journal: Journal, ordinal: int, size: int) -> None:
    """Windows of a large batch, whose first half has results."""
    half = size // 2
    began = time.perf_counter()
    for first in range(0, half, CHUNK):
        await journal.put_results(ordinal, [result(index) for index in range(first, min(half, first + CHUNK))])
    line(f"put {half:,} results in chunks of {CHUNK}", f"{half / (time.perf_counter() - began):,.0f} results/s")
    await timed("get", journal.get("large", None))
    await timed("list 20", journal.list_batches(None))
    await timed("1,000 results from the middle", journal.results_after(ordinal, half // 2))
    await timed("1,000 unfinished items from the middle", journal.unfinished_items(ordinal, half))
    await timed("1,000 unfinished items, all finished ones passed over", journal.unfinished_items(ordinal, -1))
    slowest, after = 0.0, half
    while True:
        began = time.perf_counter()
        window = await journal.unfinished_items(ordinal, after)
        slowest = max(slowest, time.perf_counter() - began)
        if not window:
            break
        after = window[-1].index
    line("slowest window of 1,000 over the other half", f"{slowest * 1000:.1f} ms")


async def rates(journal: Journal, number: int) -> None:
    """Results/s of batches that run at once; then with a thread beside that leaves Python no idle moment."""
    for what, busy in (("", False), (", event loop's core busy", True)):
        ordinals = [await running(journal, f"b{busy}{n}", number // WRITERS) for n in range(WRITERS)]
        commits, began = journal.commits, time.perf_counter()
        with Busy(busy):
            await asyncio.gather(*(finish(journal, ordinal, number // WRITERS) for ordinal in ordinals))
        took = time.perf_counter() - began
        line(
            f"results of {WRITERS} batches, {TICK} at once{what}",
            f"{number / took:,.0f} results/s, {(journal.commits - commits) / took:.0f} commits/s",
        )


async def finish(journal: Journal, ordinal: int, size: int) -> None:
    """Two puts are on their way at any time, as while a rank's answers come in."""

    async def half(offset: int) -> None:
        for first in range(offset * TICK, size, 2 * TICK):
            await journal.put_results(ordinal, [result(index) for index in range(first, min(size, first + TICK))])

    await asyncio.gather(half(0), half(1))


class Busy:
    """A thread that computes in Python, as a loaded event loop does."""

    def __init__(self, is_busy: bool) -> None:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._compute) if is_busy else None

    def __enter__(self) -> None:
        if self._thread:
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._thread:
            self._thread.join()

    def _compute(self) -> None:
        while not self._end.is_set():
            sum(range(2000))


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[Journal]:
    """A journal without quotas."""
    journal = await open_journal(place, Quotas(), print)
    try:
        yield journal
    finally:
        await journal.close()


def new_batch(name: str) -> NewBatch:
    """A batch of nobody's."""
    return NewBatch(id=name, tenant="bench", model="none", created_at=time.time())


def item(index: int) -> NewItem:
    """With a custom_id."""
    return NewItem(ITEM % (index, PROMPT), f"row-{index:08}")


def result(index: int) -> NewResult:
    """Of 512 bytes."""
    body = b"%0512d" % index
    return NewResult(index=index, status=ResultStatus.OK, body=body, prompt_tokens=45, completion_tokens=64)


async def timed(what: str, work: Awaitable[T]) -> T:
    """What it comes to; says how long it took."""
    began = time.perf_counter()
    done = await work
    took = time.perf_counter() - began
    line(what, f"{took * 1000:.1f} ms" if took < 1 else f"{took:.1f} s")
    return done


def line(what: str, figure: str) -> None:
    """One figure."""
    print(f"  {what:62} {figure}", flush=True)
