"""`phalanx tune`: its flags. What they do is imported when the command runs."""

from collections.abc import Mapping
from typing import Any

import click

from phalanx.generate.command import PROMPT_FLAGS, Flag, with_flags
from phalanx.service_flags import ServiceCommand, size_flags

_FLAGS: tuple[Flag, ...] = (
    click.option("--budget", default="10m", show_default=True, metavar="TIME", help="Such as 90s, 10m or 1h."),
    click.option("--input-tokens", metavar="N", help="Of a prompt, or lognormal:MEAN:MAX. Default: 100."),
    click.option("--output-tokens", metavar="N", help="Of an answer, or lognormal:MEAN:MAX. Default: 128."),
    click.option("--prompts", metavar="FILE", help="Rows with prompts of your own, as `phalanx generate` reads them."),
    click.option("--max-tokens", type=click.IntRange(min=1), metavar="N", help="With --prompts. Default: 1024."),
    *PROMPT_FLAGS,
    click.option("--sampling-params", metavar="JSON", help="More of vLLM's SamplingParams. Default: temperature 0."),
    click.option(
        "--items",
        type=click.IntRange(min=1),
        metavar="N",
        help="Of your batches, if they are small: then their beginnings and ends count. Default: one long batch.",
    ),
    click.option("--fresh", is_flag=True, help="Forget what was measured before, and begin anew."),
    click.option("--json", "as_json", is_flag=True, help="The result as JSON, for scripts."),
    click.option("--tuned-dir", metavar="FOLDER", help="Where it is kept. Default: ~/.local/share/phalanx/tuned."),
    click.option("--dp-size", type=click.IntRange(min=1), metavar="N", help="Ranks."),
    click.option("--tp-size", type=click.IntRange(min=1), metavar="N", help="GPUs of a rank."),
)


@click.command(cls=ServiceCommand, options_metavar="[FLAGS]")
@click.argument("model", metavar="MODEL [-- SERVICE FLAGS]")
@with_flags(_FLAGS)
@click.pass_context
def tune(ctx: click.Context, /, model: str, serve_flags: tuple[str, ...], **given: Any) -> int:  # Any: as typed
    """Find out how MODEL is served the fastest on this machine, and keep it for `phalanx serve`.

    Serves the model with one setting after another, each time with the same work. The same command again goes on where
    it stopped. Nothing else should use the GPUs meanwhile.

    Exit codes: 0 measured, as far as the budget lasted; 2 the command must be changed, or
    the service does not take its flags; 3 the service failed; 130 interrupted.
    """
    from app.errors import FatalError
    from phalanx.cli import CommandError
    from phalanx.generate.errors import JobError
    from phalanx.tune.request import TuneRequest, settings_of, workload_of
    from phalanx.tune.run import run

    environ: Mapping[str, str] = ctx.obj
    folder = ("--tuned-dir", given["tuned_dir"]) if given["tuned_dir"] else ()
    flags = (*size_flags(given["dp_size"], given["tp_size"]), *folder, *serve_flags)
    try:
        request = TuneRequest(
            model=model,
            serve_flags=flags,
            settings=settings_of(ctx, model, flags, environ),
            workload=workload_of(given),
            items=given["items"],
            budget_s=_seconds(given["budget"]),
            is_fresh=given["fresh"],
            as_json=given["as_json"],
        )
        return run(request, environ)
    except (JobError, FatalError) as error:
        raise CommandError(str(error), error.exit_code) from None


def _seconds(text: str) -> float:
    from app.settings.field_types import seconds

    try:
        return seconds(text)
    except ValueError as error:
        raise click.UsageError(f"--budget is {text}: {error}") from None
