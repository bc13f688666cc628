"""Opening a journal: whatever is wrong with it is one sentence, and one gateway uses it at a time."""

import asyncio
import contextlib
import os
import re
import sqlite3
import stat
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from app.journal.errors import (
    CannotOpen,
    DriverMissing,
    FolderUnusable,
    JournalInUse,
    LoginRefused,
    NewerSchema,
    NoJournal,
    NotAJournal,
    ServerUnreachable,
)
from app.journal.opening import examine, upgrade
from app.journal.place import FolderPlace, Place, ServerPlace, url_problem
from app.journal.sql import engines
from app.journal.sql.schema import REVISIONS, metadata
from app.journal.sql.version import MIGRATIONS, VERSION_TABLE
from phalanx.cli import main
from tests.journal.stored import opened, queued
from tests.postgres import Cluster
from tests.unprivileged import public_folder, unprivileged


def refusal(place: Place, kind: type[CannotOpen]) -> str:
    """Why it cannot be opened: one sentence that has the place in it, and no password."""

    async def fail() -> None:
        async with opened(place):
            pass

    with pytest.raises(kind) as refused:
        asyncio.run(fail())
    said = str(refused.value)
    assert "\n" not in said and "secret" not in said
    assert refused.value.exit_code == (1 if kind is ServerUnreachable else 2)
    return said


def change(place: Place, statement: str) -> None:
    engine = engines.writing_engine(place)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


def test_a_second_gateway_is_told_who_uses_it(place: Place) -> None:
    async def check() -> None:
        async with opened(place) as journal:
            await queued(journal, 1)
            said = await asyncio.to_thread(refusal, place, JournalInUse)
            assert re.search(rf"is used by pid {os.getpid()} on \S+: stop that one", said)
            with pytest.raises(JournalInUse):
                await asyncio.to_thread(upgrade, place)
            assert (await asyncio.to_thread(examine, place)).batches == 1  # looking is allowed

    asyncio.run(check())
    asyncio.run(check_again(place))


async def check_again(place: Place) -> None:
    async with opened(place) as journal:
        assert len(await journal.open_batches()) == 1


def test_the_migrations_make_the_tables_that_the_code_knows(place: Place) -> None:
    upgrade(place)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    scripts = ScriptDirectory.from_config(config)
    assert [script.revision for script in scripts.walk_revisions()][::-1] == list(REVISIONS)
    engine = engines.writing_engine(place)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_a_new_journal_is_as_all_migrations_together_would_make_it(tmp_path: Path) -> None:
    def made(place: FolderPlace) -> dict[str, list[str]]:
        """What is in each statement; constraints stand in another order."""
        with contextlib.closing(sqlite3.connect(place.file)) as connection:
            found = connection.execute("SELECT name, coalesce(sql, '') FROM sqlite_master ORDER BY name").fetchall()
            version = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()  # noqa: S608
        return {name: sorted(re.findall(r"\w+", sql)) for name, sql in found} | {"version": list(version)}

    async def make(place: FolderPlace) -> None:
        async with opened(place):
            pass

    new, migrated = FolderPlace(tmp_path / "new"), FolderPlace(tmp_path / "migrated")
    asyncio.run(make(new))
    upgrade(migrated)
    assert made(new) == made(migrated)


def test_a_newer_schema_is_not_touched(place: Place) -> None:
    upgrade(place)
    change(place, f"UPDATE {VERSION_TABLE} SET version_num = '0999'")  # noqa: S608
    assert "has schema 0999, which a newer version of Phalanx has written" in refusal(place, NewerSchema)
    with pytest.raises(NewerSchema):
        examine(place)
    with pytest.raises(NewerSchema):
        upgrade(place)


def test_what_lacks_a_table_is_damaged(place: Place) -> None:
    upgrade(place)
    change(place, "DROP TABLE results")
    assert "lacks tables (results)" in refusal(place, NotAJournal)


# ---------------------------------------------------------------- a folder


def test_files_are_for_this_user_alone(tmp_path: Path) -> None:
    place = FolderPlace(tmp_path / "a" / "b" / "8000", is_default=True)

    async def check() -> None:
        async with opened(place) as journal:
            await queued(journal, 1)
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in place.folder.iterdir()}
            names = ("journal.sqlite3", "journal.sqlite3-shm", "journal.sqlite3-wal", "lock")
            assert modes == dict.fromkeys(names, 0o600)

    asyncio.run(check())
    assert stat.S_IMODE(place.folder.stat().st_mode) == 0o700


def test_a_named_folder_is_not_made_in_one_that_is_missing(tmp_path: Path) -> None:
    said = refusal(FolderPlace(tmp_path / "volume" / "data"), FolderUnusable)
    assert f"there is no folder {tmp_path}/volume; make it first" in said
    (tmp_path / "file").write_text("")
    assert "File exists" in refusal(FolderPlace(tmp_path / "file"), FolderUnusable)


def test_a_folder_must_be_writable() -> None:
    with public_folder() as folder:
        (folder / "data").mkdir(mode=0o555)
        with unprivileged():
            said = refusal(FolderPlace(folder / "data"), FolderUnusable)
    assert "Permission denied" in said and "may write" in said


@pytest.mark.parametrize("garbage", [b"no database " * 5000, b"SQLite format 3\0" + b"\xff" * 20_000])
def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path: Path, garbage: bytes) -> None:
    place = FolderPlace(tmp_path)
    place.file.write_bytes(garbage)
    assert "is no SQLite database, or is damaged" in refusal(place, NotAJournal)
    with pytest.raises(NotAJournal):
        examine(place)
    assert place.file.read_bytes() == garbage


def test_another_programs_database_is_left_as_it_is(tmp_path: Path) -> None:
    place = FolderPlace(tmp_path)
    with sqlite3.connect(place.file) as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    assert "holds other tables (theirs)" in refusal(place, NotAJournal)


def test_a_damaged_page_is_found(tmp_path: Path) -> None:
    place = FolderPlace(tmp_path)

    async def fill() -> None:
        async with opened(place) as journal:
            await queued(journal, 20_000)

    asyncio.run(fill())
    with place.file.open("r+b") as file:
        file.seek(place.file.stat().st_size // 2)
        file.write(b"\xaa" * 65536)
    with pytest.raises(NotAJournal, match="damaged"):
        examine(place)


def test_there_is_nothing_to_look_at_before_the_first_start(tmp_path: Path) -> None:
    with pytest.raises(NoJournal, match="`phalanx serve` makes one"):
        examine(FolderPlace(tmp_path))


# ---------------------------------------------------------------- a server


def test_a_server_that_cannot_be_reached_is_named(cluster: Cluster) -> None:
    said = refusal(ServerPlace("postgresql://me:secret@127.0.0.1:9/journal"), ServerUnreachable)
    assert said.startswith("the journal on me@127.0.0.1:9/journal cannot be reached")


def test_a_server_that_refuses_is_named(cluster: Cluster) -> None:
    said = refusal(ServerPlace(cluster.url(password="no secret")), LoginRefused)  # noqa: S106  wrong on purpose
    assert "password authentication failed" in said
    assert 'database "nothing" does not exist' in refusal(ServerPlace(cluster.url("nothing")), LoginRefused)


def test_a_servers_database_is_made_by_command_alone(cluster: Cluster) -> None:
    cluster.create("empty")
    place = ServerPlace(cluster.url("empty"))
    assert "is empty: make its tables with `phalanx db upgrade --journal-url URL`" in refusal(place, NoJournal)
    assert upgrade(place) is None
    assert upgrade(place) == REVISIONS[-1]
    cluster.drop("empty")


def test_the_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    said = refusal(ServerPlace("postgresql://me:secret@127.0.0.1:9/journal"), DriverMissing)
    assert "pip install 'phalanx[postgres]'" in said


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://a:secret@b/c", "it begins with mysql"),
        ("journal.db", "it begins with no scheme"),
        ("postgresql://a:secret@b:x/c", "it must be such as"),
        ("postgresql://a:secret@b", "it names no database"),
        ("postgres://a:secret@b/c", None),
        ("postgresql:///c", None),
    ],
)
def test_a_url_is_checked_without_being_repeated(url: str, said: str | None) -> None:
    found = url_problem(url)
    assert (found is None) if said is None else (found is not None and said in found and "secret" not in found)


# ---------------------------------------------------------------- the commands


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str]:
    with pytest.raises(SystemExit) as ended:
        main(["db", *arguments])
    out, err = capsys.readouterr()
    return ended.value.code, out + err


def test_the_commands_say_what_they_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "data")
    assert command(capsys, "check", "--data-dir", folder)[0] == 2
    assert command(capsys, "upgrade", "--data-dir", folder) == (0, f"phalanx: the journal in {folder} was made\n")
    code, said = command(capsys, "upgrade", "--data-dir", folder)
    assert (code, said) == (0, f"phalanx: the journal in {folder} had schema {REVISIONS[-1]} and is up to date\n")
    code, said = command(capsys, "check", "--data-dir", folder)
    assert code == 0 and "can be used: 0 batches, 0 items" in said


def test_the_commands_find_the_gateways_own_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("PHALANX_PORT", "8123")
    code, said = command(capsys, "upgrade")
    assert code == 0 and f"{tmp_path}/phalanx/8123 was made" in said
    monkeypatch.setenv("PHALANX_PORT", "tcp://10.0.0.1:8123")  # Kubernetes' link to a Service
    code, said = command(capsys, "upgrade")
    assert code == 0 and f"{tmp_path}/phalanx/8000 was made" in said
    for wrong in ("80o1", "0"):
        code, said = command(capsys, "check", "--port", wrong)
        assert code == 2 and f"--port is '{wrong}'" in said
    code, said = command(capsys, "check", "--journal-url", "postgresql://me:secret@127.0.0.1:9/j")
    assert code == 1 and "secret" not in said and said.count("\n") == 1
    code, said = command(capsys, "check", "--journal-url", "mysql://me:secret@h/j")
    assert code == 2 and "secret" not in said
    code, said = command(capsys, "check", "--journal-url", "postgresql:///j", "--data-dir", "x")
    assert code == 2 and "keep one of them" in said
