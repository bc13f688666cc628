"""`phalanx api-keys`: makes, shows and revokes the keys that a gateway asks for. It changes a file, and no gateway need
run; one that does takes the change over within a second or two.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from app.keys.store import KeysFile

T = TypeVar("T")
PRIORITY_HELP = "priority that batches with this key may have; lower ones run first."

file_option = click.option(
    "--file",
    "path",
    envvar="PHALANX_API_KEYS_FILE",
    show_envvar=True,
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The file of keys: what `phalanx serve` has as --api-keys-file.",
)


@click.group("api-keys", invoke_without_command=True)
@click.pass_context
def api_keys(ctx: click.Context) -> None:
    """Make, show and revoke API keys."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@api_keys.command()
@click.argument("name")
@file_option
@click.option("--admin", is_flag=True, help="May drain and restart ranks, and read the ends of their logs.")
@click.option(
    "--tenant",
    metavar="TENANT",
    help="Who owns its batches, together with other keys of that name. Default: the key alone.",
)
@click.option("--weight", type=int, default=1, metavar="N", help="Its tenant gets N times the tokens of one with 1.")
@click.option("--max-waiting-items", type=int, metavar="N", help="Items that it may have in the backlog.")
@click.option("--requests-per-s", type=float, metavar="X", help="Requests a second; as many may come at once.")
@click.option("--min-priority", type=int, metavar="N", help=f"Lowest {PRIORITY_HELP}")
@click.option("--max-priority", type=int, metavar="N", help=f"Highest {PRIORITY_HELP}")
def create(
    name: str,
    path: Path,
    admin: bool,
    tenant: str | None,
    weight: int,
    max_waiting_items: int | None,
    requests_per_s: float | None,
    min_priority: int | None,
    max_priority: int | None,
) -> None:
    """Make a key called NAME and print its secret, which is kept nowhere."""
    from app.keys.key import KeyLimits

    try:
        limits = KeyLimits(
            max_waiting_items=max_waiting_items,
            requests_per_s=requests_per_s,
            min_priority=min_priority,
            max_priority=max_priority,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    new = _with_file(path, lambda file: file.create(name, admin=admin, weight=weight, limits=limits, tenant=tenant))
    click.echo(new.secret)
    click.echo(
        f"phalanx: {new.key.id} ({name}) was written to {path}. Its secret is shown this once: it is kept as a hash.",
        err=True,
    )


@api_keys.command("list")
@file_option
@click.option("--json", "as_json", is_flag=True, help="As JSON, for scripts.")
def list_keys(path: Path, as_json: bool) -> None:
    """Show the keys, without their secrets."""
    from phalanx.api_keys_table import print_keys, shown

    keys = _with_file(path, lambda file: file.read().keys)
    if as_json:
        click.echo(json.dumps([shown(key) for key in keys], indent=2))
    else:
        print_keys(keys)


@api_keys.command()
@click.argument("id_or_name")
@file_option
def revoke(id_or_name: str, path: Path) -> None:
    """Remove a key. What was admitted with it before is finished."""
    key = _with_file(path, lambda file: file.revoke(id_or_name))
    click.echo(f"phalanx: {key.id} ({key.name}) is revoked", err=True)


def _with_file(path: Path, work: "Callable[[KeysFile], T]") -> T:
    """What comes of the file. Its troubles end the command with their sentence."""
    from app.keys.store import KeysFile, KeysFileError

    try:
        file = KeysFile(path.expanduser())
    except RuntimeError:  # of a user that is not there, or without a home
        raise click.UsageError(f"{path} begins with no home that the system knows: write the whole path") from None
    try:
        return work(file)
    except KeysFileError as error:
        raise click.UsageError(str(error)) from None  # exit code 2
