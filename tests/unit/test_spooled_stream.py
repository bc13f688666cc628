"""Results that nobody reads while the body still comes: all of them, in order, and the batch is not held back."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from batch_bench import ROOMY

from app.batches import spool_file, spool_store
from app.batches.memory import HeldBytes
from app.batches.result_spool import ResultSpool
from app.batches.sink import Rest
from app.batches.spool_space import SpoolAccount, SpoolSpace
from app.batches.spooled_stream import SpooledStream
from engines import tasks
from engines.contract.protocol import Outcome, Result

WINDOW = 100
LINES = [b"%09d" % number for number in range(200)]


class Brake:
    """Whether the batch is held back."""

    is_held = False

    def hold(self) -> None:
        self.is_held = True

    def release(self) -> None:
        self.is_held = False


class Bench:
    """A stream, and what it counts for."""

    def __init__(self, folder: Path) -> None:
        self.held = HeldBytes(ROOMY, lambda: 0.0)
        self.account: SpoolAccount = SpoolSpace(ROOMY, folder).open()
        self.stream = SpooledStream(self.held.open(), WINDOW, ResultSpool(self.account))
        self.brake = Brake()
        self.stream.open(self.brake)
        self.failures: list[BaseException] = []

    @asynccontextmanager
    async def kept_up(self) -> AsyncIterator[SpooledStream]:
        keeper = tasks.start(self.stream.keep_up(), "keeper", lambda _, error: self.failures.append(error))
        async with asyncio.timeout(60):
            yield self.stream
        await tasks.end(keeper)
        assert not self.failures

    def put(self, lines: list[bytes]) -> None:
        for index, line in enumerate(lines):
            self.stream.put(index, line, "ok", Result(0, Outcome.OK))


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110  what a thread does is waited for
        await asyncio.sleep(0.001)


async def read_all(stream: SpooledStream) -> list[bytes]:
    """As the answer does: what is there, until there is no more."""
    found: list[bytes] = []
    while not stream.is_read:
        await stream.news.wait()
        found += stream.take()
    return [line.removesuffix(b"\n") for line in found]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(autouse=True)
def small_writes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(spool_store, "WRITE_BYTES", 64)
    return


def test_nothing_is_held_back_while_the_body_comes_and_no_more_is_in_memory_than_a_window(bench: Bench) -> None:
    async def play() -> None:
        async with bench.kept_up() as stream:
            bench.put(LINES)
            assert not bench.brake.is_held
            await until(lambda: bench.held.total <= WINDOW + 64)
            stream.end_body()
            assert bench.brake.is_held
            stream.close(None)
            assert await read_all(stream) == LINES
            assert not bench.brake.is_held
            assert (bench.held.total, bench.account.size) == (0, 0)

    asyncio.run(play())


def test_a_client_that_reads_while_it_sends_has_each_result_in_order(bench: Bench) -> None:
    async def play() -> None:
        async with bench.kept_up() as stream:
            reading = asyncio.create_task(read_all(stream))
            for start in range(0, len(LINES), 30):
                bench.put(LINES[start : start + 30])
                await asyncio.sleep(0.002)
            stream.end_body()
            stream.close(None)
            assert await reading == LINES

    asyncio.run(play())


def test_what_comes_while_older_results_are_on_disk_comes_behind_them(bench: Bench) -> None:
    async def play() -> None:
        async with bench.kept_up() as stream:
            bench.put(LINES[:150])
            stream.end_body()
            lines = stream.take()
            first = [next(lines) for _ in range(3)]
            bench.put(LINES[150:])
            stream.close(Rest((0,), range(0), lambda _: b"the rest"))
            first += lines
            assert [line[:-1] for line in first] + await read_all(stream) == [*LINES, b"the rest"]

    asyncio.run(play())


def test_after_the_body_a_stream_is_held_back_until_half_a_window_is_left(bench: Bench) -> None:
    async def play() -> None:
        async with bench.kept_up() as stream:
            stream.end_body()
            bench.put(LINES[:9])
            assert not bench.brake.is_held
            bench.put(LINES[9:11])
            assert bench.brake.is_held
            assert bench.account.size == 0  # nothing went to the disk
            list(stream.take())
            assert not bench.brake.is_held

    asyncio.run(play())


def test_when_the_disk_is_full_the_batch_is_held_back_and_nothing_is_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(spool_file.os, "pwrite", full)

    async def play() -> None:
        async with bench.kept_up() as stream:
            bench.put(LINES)
            await until(lambda: bench.brake.is_held)
            assert bench.held.total == sum(map(len, LINES)) + len(LINES)  # it is in memory, and counts there
            stream.end_body()
            stream.close(None)
            assert await read_all(stream) == LINES
            assert (bench.brake.is_held, bench.held.total) == (False, 0)

    asyncio.run(play())


def test_what_is_released_is_forgotten(bench: Bench) -> None:
    async def play() -> None:
        async with bench.kept_up() as stream:
            bench.put(LINES)
            await asyncio.sleep(0.002)
            stream.release()
            stream.release()
            bench.account.close()
            bench.put(LINES[:1])
            assert (bench.held.total, bench.account.size) == (0, 0)

    asyncio.run(play())
