"""Which schema a database has, and the way to this version's. Alembic is slow to import, so only upgrades do."""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from app.journal.errors import NewerSchema, NoJournal, NotAJournal, OlderSchema
from app.journal.place import Place, ServerPlace
from app.journal.sql.schema import NEWEST, REVISIONS, metadata

VERSION_TABLE = "journal_version"
VERSION_COLUMN = f"version_num VARCHAR(32) NOT NULL, CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY (version_num)"
MIGRATIONS = Path(__file__).parents[1] / "migrations"


def check(connection: Connection, place: Place) -> None:
    """Raises NoJournal, NotAJournal, NewerSchema or OlderSchema."""
    found = revision(connection, place)
    upgrade_command = "phalanx db upgrade" + (" --journal-url URL" if isinstance(place, ServerPlace) else "")
    if found is None:
        raise NoJournal(f"{place} is empty: make its tables with `{upgrade_command}`")
    if found != NEWEST:
        raise OlderSchema(
            f"{place} has schema {found}, and this version needs {NEWEST}: back it up, and run `{upgrade_command}`"
        )


def revision(connection: Connection, place: Place) -> str | None:
    """The schema's revision; None for an empty database. Raises NotAJournal and NewerSchema."""
    tables = set(inspect(connection).get_table_names())
    if VERSION_TABLE not in tables:
        if tables:
            raise NotAJournal(
                f"{place} holds other tables ({', '.join(sorted(tables)[:3])}): give the journal a database of its own"
            )
        return None
    found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608  a constant
    missing = {table.name for table in metadata.sorted_tables} - tables
    if found is None or (missing and found == NEWEST):
        raise NotAJournal(f"{place} lacks tables ({', '.join(sorted(missing)[:3])}): restore it from a backup")
    if found not in REVISIONS:
        raise NewerSchema(
            f"{place} has schema {found}, which a newer version of Phalanx has written; this one knows "
            f"{NEWEST}: use that version, or another place"
        )
    return str(found)


def make(connection: Connection) -> None:
    """All tables in an empty SQLite database, as the migrations would make them: without Alembic, which takes longer to
    import than everything else of a start."""
    metadata.create_all(connection)
    connection.execute(text(f"CREATE TABLE {VERSION_TABLE} ({VERSION_COLUMN})"))
    connection.execute(text(f"INSERT INTO {VERSION_TABLE} VALUES (:newest)"), {"newest": NEWEST})  # noqa: S608  a constant


def upgrade(connection: Connection) -> None:
    """All steps to this version's schema, in the connection's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = VERSION_TABLE
    command.upgrade(config, "head")
