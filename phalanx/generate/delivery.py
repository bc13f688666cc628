"""Sends the rows that have no result as one batch, and keeps its results as they come.

A batch that was sent before is taken up again by its id, and resumed if it was cancelled or has expired. One that the
service does not know any more is sent anew, but only the rows that have no result.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from phalanx.client import BatchInfo, NotFound
from phalanx.generate.columns import AddedColumns
from phalanx.generate.errors import RowProblem, ServiceProblem
from phalanx.generate.job import Job
from phalanx.generate.merge import item_of
from phalanx.generate.progress import Reporter
from phalanx.generate.prompts import PromptMaker
from phalanx.generate.rows import Source
from phalanx.generate.service import SentBatch, Service, explained, row_entry
from phalanx.generate.spool import Spool

GIVEN_UP = ("cancelling", "cancelled", "expired", "failed")  # until the same command comes again
MAX_BATCHES = 3  # a service that forgets more of them in one run is not worth asking again


@dataclass
class Items:
    """The items to send, made anew from the input each time that they are asked for."""

    source: Source
    maker: PromptMaker
    added: AddedColumns
    spool: Spool
    rows: int = field(default=0, init=False)  # so far
    bad_rows: int = field(default=0, init=False)
    sent: int = field(default=0, init=False)

    def __iter__(self) -> Iterator[dict[str, Any]]:  # Any: JSON
        self.rows = self.bad_rows = self.sent = 0
        for chunk in self.source.chunks():
            for row in chunk.rows:
                self.rows += 1
                if self.spool.has(row.number):
                    continue
                try:
                    item = item_of(row, self.maker, self.added)
                except RowProblem:
                    self.bad_rows += 1
                else:
                    self.sent += 1
                    yield item


class Delivery:
    """One job's dealings with the service. `save` writes the job down."""

    def __init__(
        self,
        service: Service,
        job: Job,
        items: Items,
        spool: Spool,
        reporter: Reporter,
        save: Callable[[], None],
    ) -> None:
        self._service = service
        self._job = job
        self._items = items
        self._spool = spool
        self._reporter = reporter
        self._save = save

    def run(self) -> None:
        """Until each row has a result, as far as the service gives one. Raises JobError."""
        with explained():
            self._run()

    def _run(self) -> None:
        for _ in range(MAX_BATCHES):
            batch, last_seq = self._taken_up()
            batch = batch or self._sent()
            if batch is None:
                return
            try:
                self._follow(batch, last_seq)
            except NotFound:
                self._forget()
            else:
                return
        raise ServiceProblem(f"the service has lost this job's batch {MAX_BATCHES} times")

    def _taken_up(self) -> tuple[SentBatch | None, int]:
        """The batch that was sent before, and the seq of its last result so far."""
        if self._job.batch_id is None:
            return None, 0
        self._reporter.set_phase("asking for the batch")
        try:
            batch = self._service.batch(self._job.batch_id)
            state = batch.refresh()
        except NotFound:
            self._forget()
            return None, 0
        resumed = ", and is resumed" if state.status in GIVEN_UP else ""
        self._reporter.say(f"going on with batch {batch.id}, which is {_shown(state)}{resumed}")
        if resumed:
            last_seq = batch.wait().last_seq
            batch.resume(self._job.parameters.timeout_s)
            return batch, last_seq
        return batch, state.last_seq

    def _forget(self) -> None:
        self._reporter.say(f"the service does not know batch {self._job.batch_id} any more: what has no result is sent")
        self._job.forget_batch()
        self._spool.last_seq = 0
        self._save()

    def _sent(self) -> SentBatch | None:
        """The batch of what has no result; None where there is nothing to send."""
        self._reporter.set_phase("asking the service")
        next(self._service.batches(limit=1), None)  # while a batch is sent, one that is away would be waited for
        self._reporter.count("sending", lambda: self._items.rows)
        self._save()
        batch = None
        if next(iter(self._items), None) is not None:
            batch = self._service.submit(
                self._items, idempotency_key=self._job.idempotency_key, **self._job.parameters.options()
            )
        self._job.rows, self._job.bad_rows = self._items.rows, self._items.bad_rows
        self._job.batch_id = batch.id if batch else None
        self._save()
        if batch:
            self._reporter.say(f"{self._items.sent:,} of {self._items.rows:,} rows were sent as batch {batch.id}")
        return batch

    def _follow(self, batch: SentBatch, last_seq: int) -> None:
        """Keeps its results until it has ended. Those up to `last_seq` were there before. Raises NotFound."""
        results = batch.results(self._spool.last_seq, follow=True)
        known = max(0, last_seq - self._spool.last_seq)
        self._reporter.follow(results, self._job.rows or 0, self._job.bad_rows, known)
        for result in results:
            self._spool.append(row_entry(result, self._job.batch))
        self._spool.sync()


def _shown(state: BatchInfo) -> str:
    status = state.status.replace("_", " ")
    return f"{status}: {state.reason}" if state.reason else status
