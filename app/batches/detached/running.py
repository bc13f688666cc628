"""A detached batch while it is open: what the journal has of it, its run, and who waits for news of it."""

import asyncio
import time
from collections.abc import Callable
from functools import partial

from app.batches.detached.figures import Figures
from app.batches.detached.sink import JournalSink
from app.batches.run import BatchRun
from app.journal.records import StoredBatch
from app.journal.states import BatchState
from engines import tasks

PREDICTION_S = 2.0  # for which a prediction is kept


class OpenBatch:
    """Held from its acceptance, or the gateway's start, to its end. `stored` is what the journal said last, counts and
    last_seq excepted: `last_seq` here is newer."""

    def __init__(self, stored: StoredBatch) -> None:
        self.stored = stored
        self.last_seq = stored.last_seq
        self.run: BatchRun[JournalSink] | None = None
        self.life: asyncio.Task[None] | None = None
        self.timers: list[asyncio.TimerHandle] = []
        self.end: asyncio.Future[Ending] | None = None  # while it runs: why it is not to run on
        self.overdue: Ending | None = None  # its time is over
        self.settling = 0  # tasks that write another state of it
        self.news = asyncio.Event()  # of one result or state; the next has another event
        self._begun: tuple[float, int] | None = None  # when the first item was sent to a rank, and the tokens had then
        self._prediction: tuple[float, float | None] = (-PREDICTION_S, None)  # when it was made

    @property
    def is_held(self) -> bool:
        """Whether nothing of it runs until its reason is gone."""
        return self.stored.state is BatchState.HELD

    def tell(self) -> None:
        """Whoever waits is told: there is a result, or another state."""
        news, self.news = self.news, asyncio.Event()
        news.set()

    def mark_begun(self) -> None:
        """Its first item in this life of the gateway is on a rank."""
        if self.run is not None:
            self._begun = time.monotonic(), self.run.usage.completion_tokens

    @property
    def has_begun(self) -> bool:
        """Whether a rank has had anything of it, in this life of the gateway or before."""
        return self.stored.started_at is not None or self._begun is not None

    @property
    def figures(self) -> Figures:
        """How it goes on now. A prediction takes long to make, and is kept for a while."""
        run, now = self.run, time.monotonic()
        if run is None or self._begun is None:
            return Figures()
        began, tokens_then = self._begun
        made_at, predicted = self._prediction
        if now - made_at >= PREDICTION_S and run.forecast is not None:
            predicted = run.forecast.seconds_left()
            self._prediction = now, predicted
        elif predicted is not None:
            predicted = max(0.0, predicted - (now - made_at))
        rate = (run.usage.completion_tokens - tokens_then) / max(now - began, 0.001)
        return Figures(
            min(len(run.flow.running), run.total - run.ended),
            round(rate, 1),
            None if predicted is None else round(predicted, 1),
        )

    def stop(self, ending: "Ending") -> bool:
        """Ends its run so, unless it ends otherwise already. Whether it runs."""
        if self.end is None:
            return False
        if not self.end.done():
            self.end.set_result(ending)
        return True

    def watch_clock(self, on_overdue: "Callable[[Ending], None]", on_failure: tasks.OnFailure) -> None:
        """Calls back when its time is over, unless it has ended."""
        stored = self.stored
        if stored.deadline_at is not None:
            late = partial(self._be_overdue, "its timeout_s is over", on_overdue)
            self._call_at(stored.deadline_at, tasks.guarded(late, "batch deadline", on_failure))
        if stored.expires_at is not None and not self.has_begun:
            late = partial(self._expire_unbegun, on_overdue)
            self._call_at(stored.expires_at, tasks.guarded(late, "batch expiry", on_failure))

    def _expire_unbegun(self, on_overdue: "Callable[[Ending], None]") -> None:
        if not self.has_begun:
            self._be_overdue("it had not begun within its expires_after_s", on_overdue)

    def _be_overdue(self, reason: str, on_overdue: "Callable[[Ending], None]") -> None:
        self.overdue = Ending(BatchState.EXPIRED, reason)
        on_overdue(self.overdue)

    def _call_at(self, unix_time: float, act: Callable[[], None]) -> None:
        delay_s = max(0.0, unix_time - time.time())
        self.timers.append(asyncio.get_running_loop().call_later(delay_s, act))

    def forget_timers(self) -> None:
        """Nothing more happens to it by time."""
        for timer in self.timers:
            timer.cancel()
        self.timers.clear()


class Ending:
    """Why a batch does not run on: what it becomes, and the reason that goes with it."""

    def __init__(self, state: BatchState, reason: str | None = None) -> None:
        self.state = state
        self.reason = reason
