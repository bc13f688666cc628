"""What must not lose or double a result: kill -9, a full disk, a lost file, a server that goes and comes back."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest

from app.journal import writer
from app.journal.errors import JournalUnavailable
from app.journal.health import Health
from app.journal.journal import Journal
from app.journal.opening import upgrade
from app.journal.place import FolderPlace, Place, ServerPlace
from app.journal.records import Counts, NewItem
from app.journal.sql.owner import LOCK
from app.journal.states import BatchState
from tests.journal.killed import GONE
from tests.journal.stored import new_batch, opened, queued, results, running, seen
from tests.postgres import Cluster

ROOT = Path(__file__).parents[2]
KILLS = 20
SIZE = 20_000
DEADLINE_S = 30.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coming back is tried more often."""
    monkeypatch.setattr(writer, "FIRST_RETRY_S", 0.05)
    monkeypatch.setattr(writer, "LONGEST_RETRY_S", 0.2)


async def until_back(heard: list[tuple[Health, str]]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while heard[-1:] != [(Health.AVAILABLE, "")]:
        assert time.monotonic() < deadline, heard
        await asyncio.sleep(0.02)


# ---------------------------------------------------------------- kill -9


class Killed:
    """Processes that put results until they are killed."""

    def __init__(self, place: Place, ordinal: int) -> None:
        argument = place.url if isinstance(place, ServerPlace) else str(place.folder)
        command = [sys.executable, "-m", "tests.journal.killed", argument, str(ordinal)]
        self._parent = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def put(self, for_s: float) -> set[int]:
        """What the next one says to have stored before it is killed, so long after it began to write."""
        assert self._parent.stdin is not None and self._parent.stdout is not None
        self._parent.stdin.write("\n")
        self._parent.stdin.flush()
        pid = int(self._parent.stdout.readline())
        time.sleep(for_s)
        os.kill(pid, signal.SIGKILL)
        said = iter(self._parent.stdout.readline, f"{GONE}\n")
        return {int(line) for line in said}

    def end(self) -> None:
        """No more of them."""
        self._parent.communicate()


def test_kill_minus_nine_loses_nothing_that_was_said_to_be_stored(place: Place) -> None:
    random.seed(11)

    async def begin() -> int:
        async with opened(place) as journal:
            return (await running(journal, SIZE)).ordinal

    async def stored() -> tuple[list[int], Counts, int]:
        async with opened(place) as journal:
            (batch,) = await journal.open_batches()
            found: list[int] = []
            seq = 0
            while window := await journal.results_after(batch.ordinal, seq):
                found += [one.index for one in window]
                seq = window[-1].seq
            return found, batch.counts, batch.usage.prompt_tokens

    ordinal = asyncio.run(begin())
    acknowledged: set[int] = set()
    killed = Killed(place, ordinal)
    for _ in range(KILLS):
        acknowledged |= killed.put(random.uniform(0.0, 0.15))
        found, counts, tokens = asyncio.run(stored())
        assert acknowledged <= set(found)
        assert len(found) == len(set(found)) == counts.ok == tokens
    killed.end()
    assert len(acknowledged) > KILLS


# ---------------------------------------------------------------- the disk


def test_a_full_disk_stores_nothing_halfway_and_is_written_again_when_there_is_room(small_disk: Path) -> None:
    heard: list[tuple[Health, str]] = []

    async def fill(journal: Journal, ordinal: int) -> list[int]:
        stored = []
        for first in range(0, 8000, 20):
            try:
                await journal.put_results(ordinal, results(range(first, first + 20)))
            except JournalUnavailable:
                return stored
            stored += range(first, first + 20)
        raise AssertionError("the disk was never full")

    async def check() -> None:
        async with opened(FolderPlace(small_disk), heard=heard) as journal:
            batch = await running(journal, 8000)
            ballast = small_disk / "ballast"
            left = os.statvfs(small_disk)
            ballast.write_bytes(b"x" * max(0, left.f_bavail * left.f_frsize - 256 * 1024))
            stored = await fill(journal, batch.ordinal)
            assert heard[0][0] is Health.UNAVAILABLE and "the disk is full" in heard[0][1]
            with pytest.raises(JournalUnavailable, match="the disk is full"):
                for number in range(1000):  # it comes back for a moment when a small write still fits
                    other = await journal.create(new_batch(f"other {number}"))
                    await journal.append(other.ordinal, [NewItem(b"x" * 10**6)])
            found = [one.index for one in await journal.results_after(batch.ordinal, limit=9000)]  # reading goes on
            assert set(stored) <= set(found) and len(found) == len(set(found))
            ballast.unlink()
            await until_back(heard)
            report = await journal.put_results(batch.ordinal, results(range(8000)))
            assert set(report.ignored) == set(found)
            await journal.set_state(batch.ordinal, BatchState.COMPLETED)

    asyncio.run(check())


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_nothing_is_written_to_a_file_that_lost_its_name(tmp_path: Path, how: str) -> None:
    place = FolderPlace(tmp_path / "data")
    heard: list[tuple[Health, str]] = []

    async def check() -> None:
        async with opened(place, heard=heard) as journal:
            batch = await running(journal, 10)
            await journal.put_results(batch.ordinal, results([0]))
            aside = tmp_path / "aside"
            aside.mkdir()
            for path in list(place.folder.glob("journal.sqlite3*")):
                path.rename(aside / path.name)
            if how == "replaced":
                place.file.write_bytes(b"garbage" * 4000)
            with pytest.raises(JournalUnavailable, match="was replaced or removed"):
                await journal.put_results(batch.ordinal, results([1]))
            await asyncio.sleep(0.3)  # it tries to come back, and must not make a new database
            with pytest.raises(JournalUnavailable):
                await journal.put_results(batch.ordinal, results([1]))
            for path in aside.iterdir():
                path.rename(place.folder / path.name)
            await until_back(heard)
            assert (await journal.put_results(batch.ordinal, results([0, 1]))).ignored == (0,)

    asyncio.run(check())


def test_a_file_that_is_overwritten_is_said_to_be_damaged(tmp_path: Path) -> None:
    place = FolderPlace(tmp_path / "data")

    async def check() -> None:
        async with opened(place) as journal:
            batch = await running(journal, 5000)
        async with opened(place) as journal:
            with place.file.open("r+b") as file:
                file.write(b"\x55" * place.file.stat().st_size)
            with pytest.raises(JournalUnavailable, match=r"damaged|no SQLite database"):
                await journal.unfinished_items(batch.ordinal)

    asyncio.run(check())


# ---------------------------------------------------------------- the server


@pytest.mark.parametrize("mode", ["immediate", "fast"])
def test_a_server_may_go_and_come_back(cluster: Cluster, mode: str) -> None:
    cluster.create(mode)
    place = ServerPlace(cluster.url(mode))
    upgrade(place)
    heard: list[tuple[Health, str]] = []
    stored: list[int] = []

    async def put_all(journal: Journal, ordinal: int) -> None:
        for index in range(3000):
            while True:
                try:
                    await journal.put_results(ordinal, results([index]))
                except JournalUnavailable:
                    await asyncio.sleep(0.02)
                else:
                    break
            stored.append(index)

    async def check() -> None:
        async with opened(place, heard=heard) as journal:
            batch = await running(journal, 3000)
            work = asyncio.ensure_future(put_all(journal, batch.ordinal))
            for _ in range(3):
                await asyncio.sleep(0.3)
                await asyncio.to_thread(cluster.stop, mode)
                with pytest.raises(JournalUnavailable):
                    await journal.create(new_batch("while it is down"))
                with pytest.raises(JournalUnavailable):
                    await journal.get("b", None)
                await asyncio.to_thread(cluster.start)
                await until_back(heard)
            await work
            assert (await seen(journal, batch)).counts == Counts(ok=3000)
            assert [health for health, _ in heard].count(Health.AVAILABLE) >= 3

    asyncio.run(check())
    assert stored == list(range(3000))


def test_the_session_of_a_gateway_that_has_just_ended_is_waited_for(cluster: Cluster) -> None:
    cluster.create("ending")
    place = ServerPlace(cluster.url("ending"))
    upgrade(place)

    async def check() -> None:
        async with opened(place) as journal:
            assert journal.epoch == 1

    with psycopg.connect(place.url, autocommit=True) as session:
        session.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        ending = threading.Timer(0.5, session.close)
        ending.start()
        asyncio.run(check())
        ending.join()
    cluster.drop("ending")


def test_a_gateway_comes_up_elsewhere_after_the_server_lost_the_first(cluster: Cluster) -> None:
    """The first one's session is ended, as by a network that broke: whoever opens the journal next owns it."""
    cluster.create("elsewhere")
    place = ServerPlace(cluster.url("elsewhere"))
    upgrade(place)
    heard: list[tuple[Health, str]] = []

    async def check() -> None:
        async with opened(place, heard=heard) as first:
            batch = await queued(first, 3)
            cluster.stop("immediate")
            cluster.start()
            async with opened(place) as second:
                await second.put_results(batch.ordinal, results([0]))
                with pytest.raises(JournalUnavailable):
                    await first.put_results(batch.ordinal, results([0]))
                deadline = time.monotonic() + DEADLINE_S
                while heard[-1][0] is not Health.SUPERSEDED:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.02)
                assert (await second.put_results(batch.ordinal, results([1]))).ignored == ()

    asyncio.run(check())
