"""`phalanx db`: makes, upgrades and checks the journal, the database in which a gateway keeps batches."""

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from app.journal.place import Place

T = TypeVar("T")


DEFAULT_PORT = "8000"


@click.group("db", invoke_without_command=True)
@click.pass_context
def db(ctx: click.Context) -> None:
    """Upgrade and check the journal of batches."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _place_options(command: "Callable[..., None]") -> "Callable[..., None]":
    """How a command is told where the journal is: as `phalanx serve` is."""
    options = (
        click.option(
            "--data-dir",
            envvar="PHALANX_DATA_DIR",
            show_envvar=True,
            metavar="FOLDER",
            type=click.Path(path_type=Path),
            help="The folder of a SQLite journal. Default: ~/.local/share/phalanx/PORT.",
        ),
        click.option(
            "--journal-url",
            envvar="PHALANX_JOURNAL_URL",
            show_envvar=True,
            metavar="URL",
            help="A PostgreSQL database.",
        ),
        click.option(
            "--port",
            envvar="PHALANX_PORT",
            default=DEFAULT_PORT,
            metavar="N",
            help="The gateway's, for the default folder.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@db.command()
@_place_options
@click.pass_obj
def upgrade(environ: "Mapping[str, str]", data_dir: Path | None, journal_url: str | None, port: str) -> None:
    """Bring the journal to this version's schema, or make it. No gateway may be using it."""
    from app.journal.opening import upgrade

    place = _place(environ, data_dir, journal_url, port)
    before = _done(lambda: upgrade(place))
    click.echo(f"phalanx: {place} " + ("was made" if before is None else f"had schema {before} and is up to date"))


@db.command()
@_place_options
@click.pass_obj
def check(environ: "Mapping[str, str]", data_dir: Path | None, journal_url: str | None, port: str) -> None:
    """See whether the journal can be used, and what it holds. A gateway may be using it."""
    from app.journal.opening import examine

    place = _place(environ, data_dir, journal_url, port)
    found = _done(lambda: examine(place))
    click.echo(
        f"phalanx: {place} can be used: {found.batches:,} batches, {found.items:,} items, {found.files:,} files, "
        f"{found.bytes:,} bytes in all"
    )


def _done(act: "Callable[[], T]") -> T:
    """What comes of it. Troubles with the journal end the command with their sentence and exit code."""
    from app.errors import FatalError
    from phalanx.cli import CommandError

    try:
        return act()
    except FatalError as error:
        raise CommandError(str(error), error.exit_code) from None


def _place(environ: "Mapping[str, str]", data_dir: Path | None, journal_url: str | None, port: str) -> "Place":
    from app.journal.place import url_problem
    from app.settings.folders import find_home, journal_place
    from app.settings.service_links import is_service_link

    if journal_url and data_dir:
        raise click.UsageError("--journal-url and --data-dir each name a journal: keep one of them")
    if journal_url and (problem := url_problem(journal_url)):
        raise click.UsageError(f"--journal-url: {problem}")
    if journal_url or data_dir or is_service_link("PHALANX_PORT", port):  # not needed, or Kubernetes' and no setting
        port = DEFAULT_PORT
    if not port.isdecimal() or int(port) == 0:
        raise click.UsageError(f"--port is {port!r}: it must be the port of the gateway whose journal it is")
    home = find_home(environ).variables
    folder = data_dir.expanduser() if data_dir else None
    return journal_place(folder, journal_url or None, int(port), {**environ, **home})
