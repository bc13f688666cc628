"""A run of `phalanx generate`, from the top: begin or go on, deliver, merge, clean up, sum up."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from phalanx.generate.beginning import check_free, checked_place, drop, unfinished
from phalanx.generate.columns import AddedColumns
from phalanx.generate.delivery import Delivery, Items
from phalanx.generate.errors import ServiceProblem, UsageProblem
from phalanx.generate.input_check import check_columns
from phalanx.generate.interrupts import Interrupted, choose, interruptible, settle
from phalanx.generate.job import Job, digest_of, new_key, write_job
from phalanx.generate.local import LocalService
from phalanx.generate.merge import Merge, replacing
from phalanx.generate.progress import Progress
from phalanx.generate.prompts import PromptMaker
from phalanx.generate.request import JobRequest
from phalanx.generate.rows import Source, open_source
from phalanx.generate.service import PATIENCE_S, Service, connect
from phalanx.generate.sinks import open_sink
from phalanx.generate.spool import Spool
from phalanx.generate.summary import summary
from phalanx.generate.workplace import STANDARD, Workplace, keep_standard_input

LOCAL_PATIENCE_S = 30.0  # with a service whose end we see


def run(request: JobRequest, environ: Mapping[str, str]) -> int:
    """Does the job; `environ` is for a service of its own. The command's exit code. Raises JobError."""
    place = checked_place(request)
    with ExitStack() as stack:
        spool = Spool(place.results)
        stack.callback(spool.close)
        stack.callback(_tidy, place)  # while the spool is still held
        with _hints(place):
            return JobRun(request, environ, place, spool).run()


class JobRun:
    """One run of a job whose place is ours alone."""

    def __init__(self, request: JobRequest, environ: Mapping[str, str], place: Workplace, spool: Spool) -> None:
        self._request = request
        self._environ = environ
        self._place = place
        self._spool = spool
        self._maker = PromptMaker(request.parameters)
        self._added = AddedColumns(request.parameters.prefix, request.parameters.has_many)
        self._progress = Progress(spool.totals)
        self._began = time.monotonic()
        self._is_settled = False  # what an interrupt means for the batch
        self._job: Job
        self._source: Source

    def run(self) -> int:
        """Does the job, or as much of it as there is time for."""
        try:
            with interruptible(), self._progress:
                self._begin()
                if self._job.needs_results(self._spool.totals.results):
                    self._generate()
                merge = self._write()
                self._place.clear()
        except Interrupted as interrupt:
            if not self._is_settled:
                self._progress.say("interrupted" + _again(self._place))
            return interrupt.exit_code
        seconds = time.monotonic() - self._began
        self._progress.say(summary(merge, self._spool.totals, self._progress.mean_tokens_per_s, seconds))
        return 1 if merge.failed else 0

    def _begin(self) -> None:
        """The job that is here already, or a new one. Raises UsageProblem."""
        request, place = self._request, self._place
        self._path = keep_standard_input(place) if request.input == STANDARD else request.input
        self._stamp = _stamp(self._path)
        self._source = open_source(self._path, request.input_format)
        check_columns(self._source, self._maker, self._added)
        if request.restart:
            drop(place, self._progress.say)
        digest = digest_of(self._path)
        job = unfinished(request, place, digest)
        if job is None:
            check_free(request)
            self._spool.clear()
            job = Job(digest=digest, parameters=request.parameters, idempotency_key=new_key())
        self._job = job
        self._spool.recover(job.batch)

    def _generate(self) -> None:
        """Until all results are in the spool. Leaves or cancels the batch when interrupted."""
        try:
            with self._serving() as url:
                self._job.url = url
                client = connect(url, self._request.api_key, self._patience_s(), self._progress.wait)
                with contextlib.closing(client) as service:
                    try:
                        self._deliver(service)
                    except Interrupted as interrupt:
                        self._settle(service, interrupt)
                        raise
        except UsageProblem:
            self._give_up_unsent()
            raise

    def _deliver(self, service: Service) -> None:
        items = Items(self._source, self._maker, self._added, self._spool)
        Delivery(service, self._job, items, self._spool, self._progress, self._save).run()

    def _settle(self, service: Service, interrupt: Interrupted) -> None:
        self._progress.close()
        chosen = choose(self._request.on_interrupt, interrupt.number, sys.stdin.isatty() and sys.stderr.isatty())
        is_local = self._request.parameters.local is not None
        self._progress.say(settle(chosen, self._job, service, is_local) + _again(self._place))
        self._is_settled = True

    @contextlib.contextmanager
    def _serving(self) -> Iterator[str]:
        """The URL of the service. One of the job's own is there for as long as the block."""
        model = self._request.parameters.local
        if model is None:
            yield self._request.url
            return
        self._save()  # its folder outlives this run together with the job
        own = LocalService(
            self._place.service,
            model,
            self._request.serve_flags,
            self._progress.say,
            self._progress.set_phase,
            self._environ,
        )
        with own:
            try:
                yield own.url
            except ServiceProblem:
                own.check()  # its own end explains more
                raise

    def _patience_s(self) -> float:
        return PATIENCE_S if self._request.parameters.local is None else LOCAL_PATIENCE_S

    def _give_up_unsent(self) -> None:
        """What the service refused can be asked otherwise: nothing is left to go on with."""
        if self._job.batch_id is None and not self._spool.totals.results:
            self._place.job.unlink(missing_ok=True)

    def _save(self) -> None:
        write_job(self._place.job, self._job)

    def _write(self) -> Merge:
        """The output and the file of failures. Raises UsageProblem when the input is not what it was."""
        request = self._request
        if _stamp(self._path) != self._stamp:
            raise UsageProblem(f"{request.input} was changed while its job ran: put it back, or begin with --restart")
        merge = Merge(self._maker, self._added, self._spool)
        self._progress.count("writing the output", lambda: merge.rows)
        with (
            replacing(request.failures) as failures,
            replacing(request.output) as file,
            contextlib.closing(open_sink(request.output_format, file, self._source, self._added)) as sink,
        ):
            merge.write(self._source.chunks(), sink, failures)
        if request.failures and not merge.failed and not request.is_failures_named:
            request.failures.unlink(missing_ok=True)
        return merge


def _tidy(place: Workplace) -> None:
    """Without a job to go on with, its other files are of no use."""
    if not (place.is_lasting and place.job.exists()):
        place.clear()


@contextlib.contextmanager
def _hints(place: Workplace) -> Iterator[None]:
    """Problems that pass say how to go on, and those with files become problems of the command."""
    try:
        yield
    except BrokenPipeError:
        raise ServiceProblem("whoever reads standard output has gone") from None
    except OSError as error:
        raise ServiceProblem(f"{error.filename or place.base}: {error.strerror or error}{_again(place)}") from None
    except ServiceProblem as problem:
        raise ServiceProblem(f"{problem}{_again(place)}") from None


def _again(place: Workplace) -> str:
    """How to go on with the job, if that can be."""
    return ": the same command again goes on" if place.is_lasting and place.job.exists() else ""


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
