"""How a job begins: whether its files can be where they should, and whether there is one to go on with."""

import contextlib
import shutil
from collections.abc import Callable

from phalanx.generate.errors import UsageProblem
from phalanx.generate.job import Job, read_job
from phalanx.generate.request import JobRequest
from phalanx.generate.workplace import STANDARD, Workplace, workplace_of


def checked_place(request: JobRequest) -> Workplace:
    """Where the job keeps its files. Raises UsageProblem for paths that cannot be."""
    place = workplace_of(request.output)
    source = request.input
    if source != STANDARD and not source.is_file():
        raise UsageProblem(f"the input {source} " + ("is no file" if source.exists() else "does not exist"))
    outputs = [path for path in (request.output, request.failures) if path is not None and path != STANDARD]
    for path in outputs:
        if path.exists() and source != STANDARD and path.samefile(source):
            raise UsageProblem(f"{path} is the input, too: name another file")
    if request.failures is not None:
        if request.failures == request.output:
            raise UsageProblem("--failures names the output: name another file")
        if not request.failures.parent.is_dir():
            raise UsageProblem(
                f"the folder {request.failures.parent} of --failures does not exist: make it with `mkdir -p`"
            )
    return place


def check_free(request: JobRequest) -> None:
    """Raises UsageProblem when a new job would replace what is there."""
    for path in (request.output, request.failures):
        if path is not None and path != STANDARD and path.exists() and not request.overwrite:
            raise UsageProblem(f"{path} exists: --overwrite replaces it when the job is done")


def unfinished(request: JobRequest, place: Workplace, digest: str) -> Job | None:
    """The job to go on with. Raises UsageProblem when it is another one."""
    job = read_job(place.job)
    if job is None:
        return None
    what = f"{request.input} is not the input it began with" if job.digest != digest else None
    if what := what or request.parameters.difference(job.parameters):
        raise UsageProblem(
            f"an unfinished job is at {place.job}, and {what}: finish it with the command it began with, or give it up "
            "with --restart"
        )
    return job


def drop(place: Workplace, say: Callable[[str], None]) -> None:
    """Gives up the job that is here. Its batch is left alone: only its user can know that nobody wants it."""
    with contextlib.suppress(UsageProblem):  # a job of another version
        former = read_job(place.job)
        if former and former.batch_id and not former.parameters.local:
            say(f"batch {former.batch_id} of the former job goes on: --restart cancels nothing")
    place.job.unlink(missing_ok=True)
    shutil.rmtree(place.service, ignore_errors=True)
