"""`phalanx node-keys`: makes the file that the nodes of a service prove to belong together by."""

from pathlib import Path

import click


@click.group("node-keys", invoke_without_command=True)
@click.pass_context
def node_keys(ctx: click.Context) -> None:
    """Make the keys of a service's nodes."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@node_keys.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
def create(path: Path) -> None:
    """Make FILE, for this user alone. Copy it to every node, and name it there with --node-keys-file."""
    from engines.contract.node_keys import NodeKeysError, write_node_keys
    from engines.host.wire import new_keys

    try:
        write_node_keys(new_keys(), path.expanduser())
    except (NodeKeysError, RuntimeError) as error:
        raise click.UsageError(str(error)) from None
    click.echo(
        f"phalanx: {path} was written. Whoever has it can read and answer all prompts: mode 0600, on nodes alone.",
        err=True,
    )
