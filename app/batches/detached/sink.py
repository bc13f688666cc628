"""The results of a detached batch on their way into the journal: what came while one write went on is the next.

A journal that falls behind, or cannot write, holds the batch back; what runs already is kept until it is stored.
"""

import asyncio
from collections.abc import Awaitable, Callable

from app.batches.results import Status
from app.batches.sink import Brake, Rest
from app.journal.errors import JournalUnavailable, NoSuchBatch, Superseded, WrongState
from app.journal.journal import Journal
from app.journal.records import NewResult
from app.journal.states import ResultStatus
from app.logs import get_logger
from engines import tasks
from engines.contract.protocol import Result

logger = get_logger("batches")
MAX_WAITING_BYTES = 8 * 1024**2  # beyond it the batch is held back
EACH_RESULT_BYTES = 200  # beside its JSON
MAX_PUT_RESULTS = 2000  # in one write
GATHER_S = 0.05  # for more results to come along: each write has its cost, however little it stores


class JournalSink:
    """A ResultSink. `until_available` returns when the journal may take writes again."""

    def __init__(
        self,
        journal: Journal,
        ordinal: int,
        until_available: Callable[[], Awaitable[None]],
        on_stored: Callable[[list[NewResult], int], None],
        on_failure: tasks.OnFailure,
    ) -> None:
        self._journal = journal
        self._ordinal = ordinal
        self._until_available = until_available
        self._on_stored = on_stored  # results that are durable now, and the seq of the last
        self._on_failure = on_failure
        self._waiting: list[NewResult] = []
        self._waiting_bytes = 0
        self._brake: Brake | None = None
        self._holds_back = False
        self._hurry = asyncio.Event()  # no more will come
        self._storing: asyncio.Task[None] | None = None

    def open(self, brake: Brake) -> None:
        """From now on it may hold the batch back."""
        self._brake = brake

    def put(self, index: int, encoded: bytes, status: Status, result: Result) -> None:
        """Keeps it until it is durable."""
        self._waiting.append(new_result(index, encoded, status, result))
        self._waiting_bytes += len(encoded) + EACH_RESULT_BYTES
        if self._waiting_bytes >= MAX_WAITING_BYTES:
            self._hold()
        if self._storing is None:
            self._storing = tasks.start(self._store(), f"results of batch {self._ordinal}", self._on_failure)

    def close(self, rest: Rest | None) -> None:
        """What waits is stored at once. Results that items lack are made up by whoever reads them."""
        self._hurry.set()

    async def drained(self) -> None:
        """Returns when all that was put is durable."""
        self._hurry.set()
        while self._storing is not None:
            await asyncio.wait([self._storing])

    async def abandon(self) -> None:
        """Stores nothing more: what is not durable is lost, and its items run again. May be called twice."""
        await tasks.end(self._storing)

    async def _store(self) -> None:
        try:
            while self._waiting:
                await self._gather()
                await self._put(self._take())
                if self._waiting_bytes <= MAX_WAITING_BYTES // 2:
                    self._release()
        finally:
            self._storing = None

    async def _gather(self) -> None:
        if len(self._waiting) < MAX_PUT_RESULTS:
            await tasks.comes_within(self._hurry, GATHER_S)

    def _take(self) -> list[NewResult]:
        taken, self._waiting = self._waiting[:MAX_PUT_RESULTS], self._waiting[MAX_PUT_RESULTS:]
        return taken

    async def _put(self, taken: list[NewResult]) -> None:
        while True:
            try:
                report = await self._journal.put_results(self._ordinal, taken)
            except JournalUnavailable:
                self._hold()
                await self._until_available()
            except (NoSuchBatch, WrongState, Superseded) as error:  # nobody reads them, or another gateway has it
                logger.warning("results_dropped", results=len(taken), reason=str(error))
                break
            else:
                self._on_stored(taken, report.last_seq)
                break
        self._waiting_bytes -= sum(len(result.body) + EACH_RESULT_BYTES for result in taken)

    def _hold(self) -> None:
        if self._brake is not None and not self._holds_back:
            self._holds_back = True
            self._brake.hold()

    def _release(self) -> None:
        if self._brake is not None and self._holds_back:
            self._holds_back = False
            self._brake.release()


def new_result(index: int, encoded: bytes, status: Status, result: Result) -> NewResult:
    """A result as the journal takes it. An item that did not come to an answer of its own may run again."""
    error = result.error
    return NewResult(
        index=index,
        status=ResultStatus(status),
        body=encoded,
        retryable=status in ("cancelled", "timeout") or (error is not None and error.code.retryable),
        prompt_tokens=result.prompt_tokens,
        completion_tokens=result.completion_tokens,
        cached_tokens=result.cached_tokens,
    )
