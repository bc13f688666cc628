"""`phalanx generate`: its flags. What they do is imported when the command runs."""

from collections.abc import Callable, Sequence
from typing import Any

import click

from phalanx.service_flags import ServiceCommand

Flag = Callable[[Callable[..., int]], Callable[..., int]]

PROMPT_FLAGS: tuple[Flag, ...] = (  # how a prompt is made of a row
    click.option("--input-format", type=click.Choice(["jsonl", "csv", "parquet", "lines"]), help="Default: by suffix."),
    click.option("--prompt-column", metavar="NAME", help="Column with the prompt. Default: prompt."),
    click.option("--template", metavar="TEXT", help="The prompt, with {column} for a column's value."),
    click.option("--messages-column", metavar="NAME", help="Column with a list of chat messages (in CSV as JSON)."),
    click.option("--chat", is_flag=True, help="Send each prompt as a user's message, in the model's chat template."),
    click.option("--system", metavar="TEXT", help="System message before each prompt; implies --chat."),
)
_FLAGS: tuple[Flag, ...] = (
    *PROMPT_FLAGS,
    click.option("--output-format", type=click.Choice(["jsonl", "parquet"]), help="Default: by suffix."),
    click.option("--prefix", default="", metavar="TEXT", help="Put before the names of the new columns."),
    click.option("--failures", metavar="FILE", help="Rows that failed. Default: OUT.failures.jsonl."),
    click.option("--overwrite", is_flag=True, help="Replace OUT if it exists."),
    click.option("--restart", is_flag=True, help="Give up an unfinished job of OUT. Its batch is not cancelled."),
    click.option(
        "--on-interrupt",
        type=click.Choice(["leave", "cancel", "ask"]),
        help="What becomes of the batch at Ctrl-C. Default: leave; with OUT as -, cancel.",
    ),
    click.option("--max-tokens", type=int, metavar="N", help="Tokens of an answer, at most."),
    click.option("--temperature", type=float, metavar="X"),
    click.option("--top-p", type=float, metavar="X"),
    click.option("--top-k", type=int, metavar="N"),
    click.option("--seed", type=int, metavar="N", help="Of the job; each row gets its own from it."),
    click.option("--n", type=int, metavar="N", help="Answers for each row; above 1 the column is `texts`."),
    click.option("--stop", multiple=True, metavar="TEXT", help="Ends an answer. May be given more than once."),
    click.option("--sampling-params", metavar="JSON", help="More of vLLM's SamplingParams; flags win over it."),
    click.option("--model", metavar="NAME", help="Model that the service must serve."),
    click.option("--priority", type=int, metavar="N", help="Lower runs first."),
    click.option("--timeout-s", type=float, metavar="X", help="Rows without a result by then fail."),
    click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="Where the gateway listens."),
    click.option("--api-key", envvar="PHALANX_API_KEY", show_envvar=True, help="Where the gateway asks for one."),
    click.option("--local", metavar="MODEL", help="Serve MODEL for this job alone; flags after -- go to the service."),
    click.option("--dp-size", type=int, metavar="N", help="Ranks, with --local."),
    click.option("--tp-size", type=int, metavar="N", help="GPUs of a rank, with --local."),
)


def with_flags(flags: Sequence[Flag]) -> Flag:
    """A decorator that gives a command all of these, in their order."""

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        for flag in reversed(flags):
            command = flag(command)
        return command

    return decorate


@click.command(cls=ServiceCommand, options_metavar="[FLAGS]")
@click.argument("input", metavar="IN")
@click.argument("output", metavar="OUT [-- SERVICE FLAGS]")
@with_flags(_FLAGS)
@click.pass_context
def generate(ctx: click.Context, /, serve_flags: tuple[str, ...], **given: Any) -> int:  # Any: as typed, or a switch
    """Generate a text for each row of IN, and write the rows with their texts to OUT.

    IN is JSONL, CSV, Parquet or lines of text, OUT is JSONL or Parquet; - is standard input or output. The same command
    again goes on with a job that was interrupted.

    Exit codes: 0 all rows have a text, 1 some failed, 2 the command or its input must be changed, 3 the service failed,
    130 interrupted.
    """
    from phalanx.cli import CommandError
    from phalanx.generate.errors import JobError
    from phalanx.generate.request import request_of
    from phalanx.generate.run import run

    try:
        return run(request_of(given, serve_flags), ctx.obj)
    except JobError as error:
        raise CommandError(str(error), error.exit_code) from None
