"""What is kept on disk until it is read: the same bytes in the same order, and the space that they take."""

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.batches import spool_file, spool_store
from app.batches.result_spool import ResultSpool
from app.batches.spool import Spool
from app.batches.spool_file import SpoolClosed, SpoolFile
from app.batches.spool_space import SpoolAccount, SpoolSpace
from app.batches.spool_store import SpoolStore
from app.errors import TryLater
from app.journal.records import StoredItem

ROOMY = 1 << 30
BODY = b"x" * 1000


@pytest.fixture
def account(tmp_path: Path) -> SpoolAccount:
    return SpoolSpace(ROOMY, tmp_path).open()


def open_files(folder: Path) -> int:
    """Of this process, in that folder. They have no names there, but still their paths here."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            found += str(link.readlink()).startswith(str(folder))
        except FileNotFoundError:  # the one that lists them
            continue
    return found


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


# ---------------------------------------------------------------- pieces, in order


PIECES = st.lists(st.lists(st.binary(max_size=40), min_size=1), max_size=12)


@settings(deadline=None, max_examples=40)
@given(PIECES, st.integers(1, 9), st.integers(1, 60), st.integers(1, 50))
def test_every_window_has_the_next_pieces_wherever_they_are(
    tmp_path_factory: pytest.TempPathFactory, groups: list[list[bytes]], limit: int, max_bytes: int, write_bytes: int
) -> None:
    async def play() -> None:
        store = SpoolStore(tmp_path_factory.getbasetemp(), 100, lambda _: None)
        for group in groups:
            store.add(group)
            await store.write_out()
        expected = [piece for group in groups for piece in group]
        found: list[bytes] = []
        while pieces := await store.read(len(found), limit, max_bytes):
            assert len(pieces) <= limit
            assert len(pieces) == 1 or sum(map(len, pieces)) <= max_bytes
            found += pieces
            store.free(len(found) // 2)
        store.close()
        assert found == expected

    before = spool_store.WRITE_BYTES
    spool_store.WRITE_BYTES = write_bytes
    try:
        asyncio.run(play())
    finally:
        spool_store.WRITE_BYTES = before


def test_little_never_goes_to_a_disk_and_much_is_not_in_memory(tmp_path: Path) -> None:
    async def play() -> None:
        store = SpoolStore(tmp_path, ROOMY, lambda _: None)
        store.add([BODY])
        await store.write_out()
        assert (open_files(tmp_path), store.memory_bytes) == (0, 1000)
        store.add([BODY] * 300)
        await store.write_out()
        assert (open_files(tmp_path), store.memory_bytes) == (1, 0)
        assert names_in(tmp_path) == []
        store.close()
        assert open_files(tmp_path) == 0

    asyncio.run(play())


def test_a_segment_is_let_go_with_its_last_piece(tmp_path: Path) -> None:
    async def play() -> None:
        given_back: list[int] = []
        store = SpoolStore(tmp_path, 2000, given_back.append)
        for _ in range(5):
            store.add([BODY])
        await store.write_out()
        assert open_files(tmp_path) == 2  # the last is small, and in memory
        store.free(3)
        assert (given_back, open_files(tmp_path)) == ([2000], 1)
        with pytest.raises(LookupError):
            await store.read(1, 1, 1)
        store.free(5)
        assert given_back == [2000, 2000, 1000]
        store.add([b"later"])
        assert await store.read(5, 9, 9) == [b"later"]
        store.close()

    asyncio.run(play())


def test_what_is_being_written_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began, may_end, real = threading.Event(), threading.Event(), os.pwrite

    def slow(*arguments: int) -> int:
        began.set()
        may_end.wait(30)
        return real(*arguments)

    monkeypatch.setattr(spool_file.os, "pwrite", slow)
    monkeypatch.setattr(spool_store, "WRITE_BYTES", 1)

    async def play() -> None:
        store = SpoolStore(tmp_path, ROOMY, lambda _: None)
        store.add([b"first"])
        writing = asyncio.create_task(store.write_out())
        await asyncio.to_thread(began.wait, 30)
        store.add([b"second"])
        assert await store.read(0, 9, 99) == [b"first", b"second"]
        may_end.set()
        await writing
        assert store.memory_bytes == len(b"second")
        assert await store.read(0, 9, 99) == [b"first", b"second"]
        store.close()

    asyncio.run(play())


def test_a_file_that_is_closed_under_a_write_is_closed_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, may_end, real = threading.Event(), threading.Event(), os.pwrite

    def slow(*arguments: int) -> int:
        began.set()
        may_end.wait(30)
        return real(*arguments)

    monkeypatch.setattr(spool_file.os, "pwrite", slow)
    file = SpoolFile(tmp_path)
    writer = threading.Thread(target=file.write, args=(b"data", 0))
    writer.start()
    assert began.wait(30)
    file.close()
    assert open_files(tmp_path) == 1
    may_end.set()
    writer.join(30)
    assert open_files(tmp_path) == 0
    file.write(b"more", 4)
    with pytest.raises(SpoolClosed):
        file.read(4, 0)
    assert open_files(tmp_path) == 0


# ---------------------------------------------------------------- items


def test_items_come_back_by_index_and_what_was_taken_is_let_go(account: SpoolAccount) -> None:
    async def play() -> None:
        spool = Spool(account)
        assert await spool.append([b"a", b"b"]) == 0
        assert await spool.append([b"c"]) == 2
        assert await spool.window(-1, 2, 100) == [StoredItem(0, b"a"), StoredItem(1, b"b")]
        assert await spool.window(1, 2, 100) == [StoredItem(2, b"c")]
        assert await spool.window(2, 2, 100) == []
        assert (account.items, spool.count) == (0, 3)
        await spool.append([b"d", b"e"])
        assert [spool.body(index) for index in (3, 4)] == [b"d", b"e"]
        assert account.items == 2
        spool.close()
        spool.close()
        assert account.items == 0

    asyncio.run(play())


def test_items_that_are_still_being_added_have_not_come(account: SpoolAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    began, may_end, real = threading.Event(), threading.Event(), os.pwrite

    def slow(*arguments: int) -> int:
        began.set()
        may_end.wait(30)
        return real(*arguments)

    monkeypatch.setattr(spool_file.os, "pwrite", slow)

    async def play() -> None:
        spool = Spool(account)
        await spool.append([b"first"])
        adding = asyncio.create_task(spool.append([BODY] * 1000))
        await asyncio.to_thread(began.wait, 30)
        assert await spool.window(-1, 9, 9999) == [StoredItem(0, b"first")]
        assert await spool.window(0, 9, 9999) == []
        may_end.set()
        assert await adding == 1
        assert len(await spool.window(0, 9, 9999)) == 9
        spool.close()

    asyncio.run(play())


def test_a_full_disk_is_the_requests_own_error(account: SpoolAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(spool_file.os, "pwrite", full)

    async def play() -> TryLater:
        spool = Spool(account)
        with pytest.raises(TryLater, match="No space left on device") as refused:
            await spool.append([BODY] * 1000)
        spool.close()
        return refused.value

    error = asyncio.run(play())
    assert (error.status, error.code, account.items) == (503, "spool_full", 0)


# ---------------------------------------------------------------- results


def test_results_come_back_in_order_some_at_a_time(account: SpoolAccount) -> None:
    async def play() -> None:
        spool = ResultSpool(account)
        lines = [b"%d\n" % number for number in range(1000)]
        for line in lines[:700]:
            spool.append(line)
        assert account.results == sum(map(len, lines[:700]))
        found = await spool.read(100)
        assert 0 < sum(map(len, found)) <= 100
        for line in lines[700:]:
            spool.append(line)
        while spool:
            found += await spool.read(1000)
        assert found == lines
        assert account.results == 0

    asyncio.run(play())
