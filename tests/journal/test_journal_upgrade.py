"""Journals of older versions: brought to this one's schema with all that is in them.

`journal_0001.sql` is what a gateway with schema 0001 had after a batch of three prompts, in SQLite's own words.
"""

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest

from app.journal.errors import CannotOpen, OlderSchema
from app.journal.opening import examine, upgrade
from app.journal.place import FolderPlace, ServerPlace
from app.journal.records import Sizes
from app.journal.sql.schema import NEWEST
from app.journal.states import BatchKind, BatchState, ResultStatus
from phalanx.cli import main
from tests.journal.stored import filed, opened
from tests.journal.test_journal_opening import change, refusal
from tests.postgres import Cluster

DUMP = Path(__file__).with_name("journal_0001.sql")
BATCH = "batchgen-cf1a52a33ea23300d24f0dbff607f097"
# Schema 0002 taken back, as far as a server's database that is upgraded again can tell.
TO_0001 = (
    "DROP TABLE openai_batches",
    "DROP TABLE file_marks",
    "DROP TABLE file_pieces",
    "DROP TABLE files",
    "ALTER TABLE holdings DROP COLUMN files",
    "ALTER TABLE batches DROP COLUMN kind",
    "UPDATE journal_version SET version_num = '0001'",
)


@pytest.fixture
def old(tmp_path: Path) -> FolderPlace:
    place = FolderPlace(tmp_path)
    with contextlib.closing(sqlite3.connect(place.file)) as connection:
        connection.executescript(DUMP.read_text())
    return place


def check_content(place: FolderPlace) -> None:
    """The batch of the old journal is there, and files can be stored beside it."""

    async def check() -> None:
        async with opened(place) as journal:
            batch = await journal.get(BATCH, "default")
            assert batch is not None and batch.state is BatchState.COMPLETED and batch.metadata == b'{"run":7}'
            assert batch.kind is BatchKind.GENERATION
            assert (batch.size, batch.counts.ok, batch.counts.error, batch.usage.completion_tokens) == (3, 2, 1, 8)
            results = await journal.results_by_index(batch.ordinal)
            assert [found.status for found in results] == [ResultStatus.OK, ResultStatus.OK, ResultStatus.ERROR]
            before = await journal.sizes()
            assert before == Sizes(batches=1, items=3, bytes=1110)
            await filed(journal, b"content")
            assert await journal.sizes() == Sizes(batches=1, items=3, bytes=1117, files=1)
            await journal.delete(batch.ordinal)
            await journal.sweep()
            assert await journal.sizes() == Sizes(bytes=7, files=1)

    asyncio.run(check())


def test_a_gateway_upgrades_a_journal_of_the_first_schema(old: FolderPlace) -> None:
    check_content(old)
    assert examine(old).files == 1


def test_the_command_upgrades_it_and_the_check_says_that_it_is_needed(
    old: FolderPlace, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OlderSchema, match=f"has schema 0001, and this version needs {NEWEST}: back it up, and run"):
        examine(old)
    with pytest.raises(SystemExit) as ended:
        main(["db", "upgrade", "--data-dir", str(old.folder)])
    assert not ended.value.code and "had schema 0001 and is up to date" in capsys.readouterr().out
    assert examine(old).batches == 1
    check_content(old)


def test_an_upgrade_that_fails_changes_nothing(old: FolderPlace) -> None:
    change(old, "CREATE TABLE file_pieces (in_the_way INTEGER)")
    with pytest.raises(CannotOpen):
        upgrade(old)
    with pytest.raises(OlderSchema):
        examine(old)
    change(old, "DROP TABLE file_pieces")
    check_content(old)


def test_an_older_schema_of_a_server_is_upgraded_by_command_alone(cluster: Cluster) -> None:
    cluster.create("older")
    place = ServerPlace(cluster.url("older"))
    upgrade(place)
    for statement in TO_0001:
        change(place, statement)
    assert "back it up, and run `phalanx db upgrade --journal-url URL`" in refusal(place, OlderSchema)
    assert upgrade(place) == "0001"

    async def store() -> None:
        async with opened(place) as journal:
            await filed(journal, b"content")
            assert (await journal.sizes()).files == 1

    asyncio.run(store())
    cluster.drop("older")
