"""A batch that runs while its body still comes: its items go to a spool, and from there to the ranks in windows."""

from collections.abc import AsyncIterator

from app.batches.acceptance import Acceptance
from app.batches.availability import Availability
from app.batches.intake import label_of
from app.batches.memory import Holding
from app.batches.record import Label
from app.batches.request import BatchRequest
from app.batches.result_spool import ResultSpool
from app.batches.run import BatchRun
from app.batches.runs import Runs
from app.batches.spool import Spool
from app.batches.spool_space import SpoolSpace
from app.batches.spooled_stream import SpooledStream
from app.errors import TooSlow, TryLater
from app.keys.ring import Caller


class Arrivals:
    """Makes them."""

    def __init__(
        self, acceptance: Acceptance, runs: Runs, availability: Availability, space: SpoolSpace, window_bytes: int
    ) -> None:
        self._acceptance = acceptance
        self._runs = runs
        self._availability = availability
        self._space = space
        self._window_bytes = window_bytes

    async def begin(self, options: BatchRequest, caller: Caller, holding: Holding) -> "Arrival":
        """A batch that runs, and of which no item has come. Close it in the end. Raises RequestError."""
        account = self._space.open()
        spool = Spool(account)
        sink = SpooledStream(holding, self._window_bytes, ResultSpool(account))

        def label(index: int) -> Label:
            return label_of(spool.body(index), returns_prompts=bool(options.return_prompt))

        try:
            run = await self._acceptance.begin(options, caller, sink, spool, label)
        except BaseException:
            account.close()
            raise
        timeout_s = options.timeout_s or self._acceptance.default_timeout_s
        return Arrival(run, spool, self._runs, self._availability, timeout_s)


class Arrival:
    """One batch. `take_in` is called once."""

    def __init__(
        self,
        run: BatchRun[SpooledStream],
        spool: Spool,
        runs: Runs,
        availability: Availability,
        timeout_s: float | None,
    ) -> None:
        self.run = run
        self.is_whole = False  # all of its body has come
        self._spool = spool
        self._runs = runs
        self._availability = availability
        self._timeout_s = timeout_s

    async def take_in(self, bodies: AsyncIterator[list[bytes]]) -> None:
        """Takes in all items; the batch's time begins with their end. Raises RequestError."""
        try:
            async for some in bodies:
                await self._spool.append(some)
                if self.run.is_complete:  # it was ended: no rank is left, or the service stops
                    raise self.cut_off()
                self.run.expect(len(some))
        except TooSlow:
            self._availability.check()
            raise
        self.is_whole = True
        self.run.complete()
        self.run.sink.end_body()
        self._runs.expire_after(self.run, self._timeout_s)

    def cut_off(self) -> TryLater:
        """Why the batch has ended before its body."""
        return self._availability.unavailable(self._availability.reason, "no_rank_ready")

    def close(self) -> None:
        """Lets go what it keeps on disk. May be called twice."""
        self._spool.close()
        self._spool.account.close()
