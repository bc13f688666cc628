"""Files in the journal: whole or not there, and gone when they are deleted or their time is over."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from app.files.incoming import PIECE_BYTES, WRITE_BYTES
from app.files.names import FILE_ID, new_file_id
from app.files.reading import content
from app.journal import writer
from app.journal.errors import DiskTooFull, JournalUnavailable, NoSuchFile, QuotaExceeded
from app.journal.health import Health
from app.journal.journal import Journal
from app.journal.place import FolderPlace, Place
from app.journal.records import Allowance, FileSealing, FilesWanted, NewFile, Quotas, Sizes
from app.journal.sql import engines
from tests.journal.stored import PIECE, filed, new_file, opened, pieces_of, queued
from tests.journal.test_journal_faults import until_back

MIB = 1024**2
SEALING = FileSealing(purpose="user_data", filename="name")


def with_journal(place: Place, act: Callable[[Journal], Awaitable[None]], quotas: Quotas | None = None) -> None:
    async def run() -> None:
        async with opened(place, quotas) as journal:
            await act(journal)

    asyncio.run(run())


def rows(place: Place, table: str) -> int:
    engine = engines.reading_engine(place)
    with engine.connect() as connection:
        found = int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())  # noqa: S608
    engine.dispose()
    return found


async def names(journal: Journal, tenant: str | None = "t", **wanted: object) -> list[str]:
    page = await journal.files.list(FilesWanted(tenant=tenant, **wanted))  # type: ignore[arg-type]
    return [file.id for file in page.files]


def test_a_file_is_seen_when_it_is_whole(place: Place) -> None:
    async def check(journal: Journal) -> None:
        ordinal = await journal.files.create(new_file("a"))
        await journal.files.append(ordinal, pieces_of(b"x" * 2 * PIECE))
        assert await journal.files.get("a", None) is None and await names(journal) == []
        await journal.files.append(ordinal, [b"yz"])
        stored = await journal.files.seal(ordinal, SEALING)
        assert (stored.size, stored.purpose, stored.filename, stored.expires_at) == (22, "user_data", "name", None)
        assert await journal.files.get("a", "t") == stored
        assert await journal.files.get("a", "another") is None
        assert await journal.files.pieces(ordinal, 1, 2) == [b"x" * PIECE, b"yz"]
        with pytest.raises(NoSuchFile):
            await journal.files.pieces(ordinal, 1, 3)

    with_journal(place, check)


def test_any_part_of_a_file_can_be_read(place: Place) -> None:
    whole = bytes(range(256)) * 2 + b"end"

    async def check(journal: Journal) -> None:
        stored = await filed(journal, whole)
        for start, stop in ((0, len(whole)), (0, 1), (9, 11), (10, 20), (37, 501), (514, 515), (100, 100), (0, 0)):
            found = [piece async for piece in content(journal.files, stored, start, stop)]
            assert b"".join(found) == whole[start:stop] and all(found)
        empty = await filed(journal, b"", "empty")
        assert [piece async for piece in content(journal.files, empty, 0, 0)] == []

    with_journal(place, check)


def test_a_restart_removes_what_was_not_whole(place: Place) -> None:
    async def leave(journal: Journal) -> None:
        await filed(journal, b"whole", "whole")
        await journal.files.append(await journal.files.create(new_file("half")), pieces_of(b"x" * 35))
        assert await journal.sizes("t") == Sizes(files=2, bytes=40)

    async def look(journal: Journal) -> None:
        assert await names(journal) == ["whole"]
        assert await journal.sizes("t") == Sizes(files=1, bytes=5)
        await journal.sweep()

    with_journal(place, leave)
    assert rows(place, "file_pieces") == 5
    with_journal(place, look)
    assert (rows(place, "files"), rows(place, "file_pieces")) == (1, 1)


def test_what_is_deleted_is_gone_at_once_and_its_rows_with_the_next_sweep(place: Place) -> None:
    async def check(journal: Journal) -> None:
        stored = await filed(journal, b"x" * 95)
        batch = await queued(journal, 3)
        reading = content(journal.files, stored, 0, 95)
        assert await anext(reading) == b"x" * PIECE
        await journal.files.delete(stored.ordinal)
        assert await journal.files.get("f", None) is None
        assert (await journal.sizes("t")).files == 0
        with pytest.raises(NoSuchFile):
            await journal.files.delete(stored.ordinal)
        with pytest.raises(NoSuchFile):
            await journal.files.append(stored.ordinal, [b"more"])
        await journal.sweep()
        with pytest.raises(NoSuchFile):
            [piece async for piece in reading]
        assert (await journal.of_ordinal(batch.ordinal)).size == 3
        another = await filed(journal, b"another", "g")
        assert another.ordinal > stored.ordinal

    with_journal(place, check)
    assert (rows(place, "files"), rows(place, "file_pieces"), rows(place, "items")) == (1, 1, 3)


def test_a_file_expires(place: Place) -> None:
    async def check(journal: Journal) -> None:
        await filed(journal, b"stays", "stays")
        await filed(journal, b"later", "later", expires_at=time.time() + 3600)
        await filed(journal, b"over", "over", expires_at=time.time())
        assert await journal.files.get("over", None) is None, "nobody waits for somebody to remove it"
        assert await names(journal) == ["stays", "later"]
        assert await journal.files.delete_expired() == 1
        assert await journal.files.delete_expired() == 0
        assert await journal.sizes("t") == Sizes(files=2, bytes=10)

    with_journal(place, check)


def test_lists_are_by_id_with_a_cursor_that_need_not_be_there_any_more(place: Place) -> None:
    async def check(journal: Journal) -> None:
        ids = [new_file_id() for _ in range(3)] + [f"file-{'f' * 32}"]
        ids.sort()
        stored = [await filed(journal, b"", name, purpose="batch" if name == ids[2] else "vision") for name in ids]
        ordinal = await journal.files.create(new_file(new_file_id(), tenant="another"))
        other = await journal.files.seal(ordinal, SEALING)
        assert await names(journal) == ids[::-1]
        assert await names(journal, is_newest_first=False) == ids
        assert set(await names(journal, None)) == {*ids, other.id}
        assert await names(journal, purpose="batch") == [ids[2]]
        await journal.files.delete(stored[1].ordinal)
        assert await names(journal, after=ids[1], is_newest_first=False) == ids[2:]
        assert await names(journal, after=ids[1]) == [ids[0]]
        first = await journal.files.list(FilesWanted(tenant="t", limit=2))
        assert [file.id for file in first.files] == [ids[3], ids[2]] and first.has_more
        last = await journal.files.list(FilesWanted(tenant="t", limit=2, after=ids[2]))
        assert [file.id for file in last.files] == [ids[0]] and not last.has_more

    with_journal(place, check)


def test_ids_sort_by_the_time_of_their_making() -> None:
    first = new_file_id()
    time.sleep(0.002)
    assert FILE_ID.fullmatch(first) and first < new_file_id()


def test_files_count_for_the_quotas(place: Place) -> None:
    quotas = Quotas(tenant=Allowance(files=2, bytes=100), total=Allowance(files=3))

    async def check(journal: Journal) -> None:
        ordinal = await journal.files.create(new_file("a"))
        await journal.files.append(ordinal, pieces_of(b"x" * 90))
        with pytest.raises(QuotaExceeded, match="tenant t stores 0 bytes, and 110 more would be more than the 100"):
            await journal.files.append(ordinal, pieces_of(b"x" * 20))
        await queued(journal, 1)  # of 6 bytes
        with pytest.raises(QuotaExceeded, match="tenant t stores 6 bytes, and 95 more"):
            await journal.files.append(ordinal, [b"x" * 5])
        await journal.files.create(new_file("b"))
        with pytest.raises(QuotaExceeded, match="tenant t stores 2 files, and 1 more would be more than the 2 allowed"):
            await journal.files.create(new_file("c"))
        await journal.files.create(new_file("c", tenant="another"))
        with pytest.raises(QuotaExceeded, match="all tenants together store 3 files"):
            await journal.files.create(new_file("d", tenant="another"))
        await journal.files.discard(ordinal)
        await journal.files.create(new_file("d", tenant="another"))

    with_journal(place, check, quotas)


def test_pieces_of_the_size_that_uploads_have_are_stored(place: Place) -> None:
    async def check(journal: Journal) -> None:
        new = NewFile(id="large", tenant="t", created_at=time.time(), piece_bytes=PIECE_BYTES)
        ordinal = await journal.files.create(new)
        for byte in range(3):
            await journal.files.append(ordinal, [bytes([byte]) * PIECE_BYTES] * (WRITE_BYTES // PIECE_BYTES))
        await journal.files.append(ordinal, [b"end"])
        stored = await journal.files.seal(ordinal, SEALING)
        read = b"".join([piece async for piece in content(journal.files, stored, WRITE_BYTES - 1, stored.size)])
        assert read == b"\0" + b"\1" * WRITE_BYTES + b"\2" * WRITE_BYTES + b"end"

    with_journal(place, check)


def test_what_cannot_be_discarded_now_is_removed_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "FIRST_RETRY_S", 0.05)
    place = FolderPlace(tmp_path)

    async def check() -> None:
        heard: list[tuple[Health, str]] = []
        async with opened(place, heard=heard) as journal:
            ordinal = await journal.files.create(new_file("half"))
            await journal.files.append(ordinal, [b"x" * PIECE])
            away = place.file.with_name("away")
            place.file.rename(away)
            with pytest.raises(JournalUnavailable):
                await journal.files.append(ordinal, [b"y"])
            await journal.files.discard(ordinal)
            away.rename(place.file)
            await until_back(heard)
            assert (await journal.sizes("t")).files == 1
            await journal.files.delete_expired()
            assert await journal.sizes("t") == Sizes()

    asyncio.run(check())


def test_a_file_leaves_room_on_the_disk_for_what_removing_it_needs(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.journal.sql.files.RESERVE_BYTES", 16 * MIB)

    async def fill(journal: Journal, name: str) -> int:
        ordinal = await journal.files.create(new_file(name, piece_bytes=PIECE_BYTES))
        with pytest.raises(DiskTooFull, match="bytes of the gateway's disk are free, which files may not take"):
            for _ in range(40):
                await journal.files.append(ordinal, [bytes(PIECE_BYTES)] * 4)
        return ordinal

    async def check(journal: Journal) -> None:
        for name in ("first", "second"):
            ordinal = await fill(journal, name)
            await queued(journal, 10, name)  # batches are still taken
            await journal.files.discard(ordinal)
            await journal.sweep()
            assert (await journal.sizes("t")).files == 0

    with_journal(FolderPlace(small_disk), check)
