"""The command line: `phalanx serve`, `phalanx ranks`, `phalanx batches`, `phalanx generate`, `phalanx tune`,
`phalanx api-keys`, `phalanx node-keys`, `phalanx db`.

What is wrong is said in one sentence on stderr, with exit code 2 where the command must be changed and 1 where the
world must. Heavy imports wait until a command needs them: `phalanx --help` answers at once.
"""

import os
import sys
from typing import Any, NoReturn

import click

from phalanx import __version__
from phalanx.api_keys import api_keys
from phalanx.batches import batches
from phalanx.db import db
from phalanx.generate.command import generate
from phalanx.inherited_descriptors import put_in_order
from phalanx.node_keys import node_keys
from phalanx.tune.command import tune

ENGINE_DASHES = "--"


class CommandError(Exception):
    """A command that ends with a sentence and this exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ServeCommand(click.Command):
    """A command whose flags are the settings, and which keeps what stands after -- for the engine."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        from phalanx.options import setting_options

        return [*setting_options(), *super().get_params(ctx)]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ours, extra_args = args, []
        if ENGINE_DASHES in args:
            end = args.index(ENGINE_DASHES)
            ours, extra_args = args[:end], args[end + 1 :]
        try:
            rest = super().parse_args(ctx, ours)
        except click.NoSuchOption as error:
            name = error.option_name
            near = f" (did you mean {error.possibilities[0]}?)" if error.possibilities else ""
            raise click.UsageError(
                f"{name} is no flag of `phalanx serve`{near}: correct it, or, if it is vLLM's own, write it after --, "
                f"as in `phalanx serve MODEL -- {name} ...`"
            ) from None
        ctx.params["extra_args"] = extra_args or None
        return rest

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from phalanx.options import SettingOption

        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                section = param.section if isinstance(param, SettingOption) else "Other"
                sections.setdefault(section, []).append(record)
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records, col_max=34)


@click.group(
    invoke_without_command=True,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda token: token.replace("_", "-"),  # --dp_size, as vLLM also allows
    },
)
@click.version_option(__version__, message="phalanx %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Batch generation over data-parallel vLLM engines, as one HTTP service."""
    ctx.obj = os.environ
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@cli.command(cls=ServeCommand, options_metavar="[FLAGS]")
@click.argument("model_argument", metavar="[MODEL] [-- ENGINE FLAGS]", required=False)
def serve(model_argument: str | None, **given: Any) -> int:  # Any: as typed, or a switch; the settings check them
    """Serve MODEL, a hub name or a folder, over HTTP.

    Every flag is also a variable, in brackets; a flag wins. What stands after -- goes to vLLM untouched.
    """
    from app import logs
    from app.errors import FatalError
    from app.settings.checks import check_environment
    from app.settings.loading import load_settings

    if model_argument is not None and given["model"] not in (None, model_argument):
        raise click.UsageError(f"MODEL is {model_argument} and --model is {given['model']}: name one model")
    if model_argument is not None:  # an empty one, too: an unset variable in a script is no wish for the default
        given["model"] = model_argument
    try:
        settings = load_settings(given)
        check_environment(settings)
        logs.configure(settings.log_format, settings.log_level, with_prompts=settings.log_prompts)
        if settings.node_rank:
            from app import node

            return node.run(settings, os.environ)
        from app.http.server import run

        return run(settings)
    except FatalError as error:
        raise CommandError(str(error), error.exit_code) from None


@cli.command()
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="Where the gateway listens.")
@click.option("--api-key", envvar="PHALANX_API_KEY", show_envvar=True, help="Where the gateway asks for one.")
@click.option("--json", "as_json", is_flag=True, help="The gateway's answer, untouched.")
def ranks(url: str, api_key: str | None, as_json: bool) -> int:
    """Show the ranks of a running gateway."""
    from phalanx.ranks_table import NoGatewayError, fetch_ranks, print_ranks

    try:
        answer = fetch_ranks(url, api_key)
    except NoGatewayError as error:
        raise CommandError(str(error), 1) from None
    if as_json:
        click.echo(answer.text)
    else:
        print_ranks(answer.ranks)
    return 0


cli.add_command(batches)
cli.add_command(generate)
cli.add_command(tune)
cli.add_command(api_keys)
cli.add_command(node_keys)
cli.add_command(db)


def main(args: list[str] | None = None) -> NoReturn:
    """The console script."""
    put_in_order()
    message = ""
    try:
        code = cli.main(args, prog_name="phalanx", standalone_mode=False) or 0
    except CommandError as error:
        message, code = str(error), error.exit_code
    except click.ClickException as error:
        message, code = error.format_message(), error.exit_code
    except click.Abort:  # Ctrl-C before the server took it over
        code = 130
    for line in message.splitlines():
        click.echo(f"phalanx: {line}", err=True)
    sys.exit(code)
