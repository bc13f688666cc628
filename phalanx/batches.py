"""`phalanx batches`: shows the detached batches of a gateway, reads their results, and cancels, resumes, waits for and
deletes them.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, get_args

import click

from phalanx.batch_status import BatchStatus

if TYPE_CHECKING:
    from phalanx.client import Batch, BatchInfo, Client, Progress

Command = Callable[..., int | None]  # as click calls it

PATIENCE_S = 600.0  # with a gateway that is away while one waits for a batch
SOME_FAILED, NOT_COMPLETED, NOT_IN_TIME = 3, 4, 5  # exit codes of `wait`


@click.group("batches", invoke_without_command=True)
@click.pass_context
def batches(ctx: click.Context) -> None:
    """Show detached batches, read their results, and cancel, resume or delete them."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _gateway_options(command: Command) -> Command:
    """Which gateway, and who asks: as `phalanx ranks` is told."""
    command = click.option(
        "--api-key", envvar="PHALANX_API_KEY", show_envvar=True, help="Where the gateway asks for one."
    )(command)
    return click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="Where the gateway listens.")(
        command
    )


@batches.command("list")
@_gateway_options
@click.option("--status", multiple=True, type=click.Choice(get_args(BatchStatus)), help="Only these; may come again.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, metavar="N", help="The newest N.")
@click.option("--json", "as_json", is_flag=True, help="As a JSON list, for scripts.")
def list_batches(url: str, api_key: str | None, status: tuple[BatchStatus, ...], limit: int, as_json: bool) -> None:
    """Show batches, the newest first."""
    from phalanx.batches_table import print_batches

    with _gateway(url, api_key) as client:
        found = list(client.batches(status, limit))
    if as_json:
        click.echo("[" + ",\n ".join(info.to_json() for info in found) + "]")
    else:
        print_batches(found)


@batches.command()
@_gateway_options
@click.argument("batch_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="As a JSON object, for scripts.")
def show(url: str, api_key: str | None, batch_id: str, as_json: bool) -> None:
    """Show all that is known of a batch."""
    from phalanx.batches_table import print_batch

    with _gateway(url, api_key) as client:
        info = client.batch(batch_id).refresh()
    if as_json:
        click.echo(info.to_json())
    else:
        print_batch(info)


@batches.command()
@_gateway_options
@click.argument("batch_id", metavar="ID")
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="SEQ", help="Only results after this `seq`.")
@click.option("--follow", is_flag=True, help="Wait for those to come, until the batch has ended.")
@click.option("-o", "--output", type=click.File("wb"), default="-", metavar="FILE", help="Default: stdout.")
def results(url: str, api_key: str | None, batch_id: str, after: int, follow: bool, output: IO[bytes]) -> None:
    """Write a batch's results as JSON lines.

    They come in the order in which they were done. With --follow it goes on over restarts of the gateway.
    """
    with _gateway(url, api_key, PATIENCE_S) as client:
        batch = client.batch(batch_id)
        batch.refresh()  # a gateway or a batch that is not there is said at once
        with batch.results(after, follow=follow) as stream:
            for result in stream:
                output.write(stream.line + b"\n")
                after = result.seq or after
                if follow:
                    output.flush()
    output.write(b"")  # so that there is a file if there were none
    if stream.summary is None and stream.progress is not None:
        _say_more_will_come(stream.progress, after)


@batches.command()
@_gateway_options
@click.argument("batch_ids", metavar="ID...", nargs=-1, required=True)
def cancel(url: str, api_key: str | None, batch_ids: tuple[str, ...]) -> None:
    """Give up what has no result yet. Results that are there stay."""
    _for_each(url, api_key, batch_ids, lambda batch: batch.cancel().status)


@batches.command()
@_gateway_options
@click.argument("batch_ids", metavar="ID...", nargs=-1, required=True)
def delete(url: str, api_key: str | None, batch_ids: tuple[str, ...]) -> None:
    """Remove batches that have ended.

    Their prompts and results are gone for good.
    """

    def remove(batch: "Batch") -> str:
        batch.delete()
        return "deleted"

    _for_each(url, api_key, batch_ids, remove)


@batches.command()
@_gateway_options
@click.argument("batch_id", metavar="ID")
@click.option("--timeout-s", type=float, metavar="S", help="What has no result after S seconds times out.")
@click.option("--expires-after-s", type=float, metavar="S", help="If it has not begun after S seconds, it expires.")
def resume(
    url: str, api_key: str | None, batch_id: str, timeout_s: float | None, expires_after_s: float | None
) -> None:
    """Run again what has no result, or one that may be retried. A held batch is tried again."""
    _for_each(url, api_key, (batch_id,), lambda batch: batch.resume(timeout_s, expires_after_s).status)


@batches.command()
@_gateway_options
@click.argument("batch_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--timeout-s", type=float, metavar="S", help="Wait no longer than S seconds for all of them.")
def wait(url: str, api_key: str | None, batch_ids: tuple[str, ...], timeout_s: float | None) -> int:
    """Wait until batches have ended, over restarts of the gateway too.

    \b
    The exit code is that of the worst of them:
      0  all completed, and every item has an answer
      1  the gateway cannot be asked, or there is no such batch
      3  all completed, and some items have an error
      4  one was cancelled, has expired or failed
      5  one had not ended after --timeout-s
    """
    from phalanx.cli import CommandError

    ends = None if timeout_s is None else time.monotonic() + timeout_s
    code = 0
    with _gateway(url, api_key, PATIENCE_S) as client:
        waited = [client.batch(batch_id) for batch_id in batch_ids]
        for batch in waited:
            if batch.refresh().status == "held":
                click.echo(f"phalanx: {batch.id} is held: {batch.info.reason}", err=True)
        for batch in waited:
            try:
                info = batch.wait(None if ends is None else max(0.0, ends - time.monotonic()))
            except TimeoutError:
                raise CommandError(
                    f"{batch.id} is still {batch.info.status} after {timeout_s:g} s", NOT_IN_TIME
                ) from None
            counts = info.request_counts
            click.echo(f"{info.id} {info.status}: {counts.ok:,} of {counts.total:,} items are ok")
            code = max(code, wait_code(info))
    return code


def wait_code(info: "BatchInfo") -> int:
    """The exit code of `wait` for a batch that has ended so."""
    if info.status != "completed":
        return NOT_COMPLETED
    return SOME_FAILED if info.failed_items else 0


def _for_each(url: str, api_key: str | None, batch_ids: tuple[str, ...], act: "Callable[[Batch], str]") -> None:
    """Does it to each, and says what became of it. Those that refuse do not keep it from the others."""
    from phalanx.cli import CommandError
    from phalanx.client import Conflict, NotFound

    refusals = []
    with _gateway(url, api_key) as client:
        for batch_id in batch_ids:
            try:
                click.echo(f"{batch_id} {act(client.batch(batch_id))}")
            except (Conflict, NotFound) as error:
                refusals.append(str(error))
    if refusals:
        raise CommandError("\n".join(refusals), 1)


def _say_more_will_come(progress: "Progress", last_seq: int) -> None:
    counts = progress.request_counts
    left = counts.total - counts.ok - counts.error - counts.cancelled - counts.timeout
    click.echo(
        f"phalanx: {progress.id} is {progress.status}, and {left:,} of {counts.total:,} results are still to come: "
        f"read on with --after {last_seq}, or with --follow",
        err=True,
    )


@contextlib.contextmanager
def _gateway(url: str, api_key: str | None, patience_s: float = 0.0) -> "Iterator[Client]":
    """A client of it. Its troubles end the command with their sentence."""
    from phalanx.address import ImpossibleKey
    from phalanx.cli import CommandError
    from phalanx.client import Client, ConnectionFailed, NotAuthorized, PhalanxError

    try:
        with Client(url, api_key=api_key, patience_s=patience_s) as client:
            yield client
    except ImpossibleKey as error:
        raise CommandError(f"{error}: set PHALANX_API_KEY, or --api-key, anew", 1) from None
    except ConnectionFailed as error:
        remedy = "start a gateway with `phalanx serve`, or say where one is with --url"
        raise CommandError(f"{error}: {remedy}", 1) from None
    except NotAuthorized:
        wants = "does not know this API key: give it another" if api_key else "asks for an API key: give it one"
        raise CommandError(f"the gateway at {url} {wants} with PHALANX_API_KEY or --api-key", 1) from None
    except PhalanxError as error:
        raise CommandError(str(error), 1) from None
