"""A batch whose results nobody takes is held back, it alone; what its sink hears, and when."""

import asyncio

from batch_bench import expecting, make_items, make_run
from dispatch_bench import Bench, head_of
from dispatch_bench import make_items as items_of

from app.batches.admission import AdmissionGate
from app.batches.rate import RateMeter
from app.batches.record import BatchRecord
from app.batches.results import Status
from app.batches.run import BatchRun
from app.batches.runs import Runs
from app.batches.sink import Brake, Rest
from app.dispatch.backlog import Backlog
from app.dispatch.item import Flow
from app.journal.records import DayUsage
from app.journal.usage_meter import UsageMeter
from app.metrics import Metrics
from app.settings.declaration import Settings
from engines.contract.protocol import Result


class Slow:
    """A sink that has room for so many results that nobody has read."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.unread: list[int] = []
        self.read: list[int] = []
        self.is_closed = False
        self._brake: Brake

    def open(self, brake: Brake) -> None:
        self._brake = brake

    def put(self, index: int, encoded: bytes, status: Status, result: Result) -> None:
        self.unread.append(index)
        if len(self.unread) >= self.room:
            self._brake.hold()

    def close(self, rest: Rest | None) -> None:
        self.is_closed = True

    def take(self) -> None:
        """Somebody reads all that has come."""
        self.read += self.unread
        self.unread.clear()
        self._brake.release()


def fail(what: str, error: BaseException) -> None:
    raise AssertionError(what) from error


async def unwritten(used: DayUsage) -> None:
    raise AssertionError(used)


def test_a_sink_hears_of_each_result_as_it_comes_and_holds_its_own_batch_back() -> None:
    async def play() -> None:
        bench = Bench(ranks=1)
        settings = Settings()
        rate = RateMeter()
        admission = AdmissionGate(settings, bench.dispatcher.backlog, rate)
        runs = Runs(bench.dispatcher, admission, rate, Metrics("1"), UsageMeter(unwritten), fail)
        slow, other = expecting(BatchRun(BatchRecord("a-model", 0), Slow(room=6), runs.forget), 40), make_run(4)
        make_items(slow)
        make_items(other)
        runs.begin(slow, None)
        while not slow.sink.unread or bench.held[0]:
            bench.answer(0)
        came = len(slow.sink.unread)
        assert 6 <= came < 40, "what was running is finished, and nothing more is dispatched"
        runs.begin(other, None)
        bench.answer(0)
        assert other.done.is_set(), "others are not held back"
        slow.sink.take()
        while not slow.done.is_set():
            bench.answer(0)
            slow.sink.take()
        assert sorted(slow.sink.read) == list(range(40))
        assert slow.sink.is_closed

    asyncio.run(play())


def test_a_flow_that_is_held_is_passed_over_and_keeps_its_items() -> None:
    backlog = Backlog(100)
    held, free = Flow(0), Flow(0)
    backlog.add(held, items_of(3, held))
    backlog.add(free, items_of(2, free))
    backlog.hold(held)
    assert [backlog.pop().flow for _ in range(2)] == [free, free]
    assert (head_of(backlog), backlog.items) == (None, 3)
    backlog.release(held)
    assert [backlog.pop().index for _ in range(3)] == [0, 1, 2]


def test_what_comes_to_a_held_flow_waits_with_the_rest() -> None:
    backlog = Backlog(100)
    flow = Flow(0)
    first, second, third = items_of(3, flow)
    backlog.add(flow, [second])
    taken = backlog.pop()
    backlog.hold(flow)
    backlog.put_back([taken])
    backlog.add(flow, [third])
    backlog.put_back([first])
    assert head_of(backlog) is None
    backlog.release(flow)
    assert [backlog.pop() for _ in range(3)] == [first, second, third]


def test_a_held_flow_can_be_discarded_and_released_without_a_trace() -> None:
    backlog = Backlog(100)
    flow = Flow(0)
    items = items_of(3, flow)
    backlog.add(flow, items)
    backlog.hold(flow)
    backlog.hold(flow)
    assert backlog.discard(flow) == items
    backlog.release(flow)
    backlog.release(flow)
    assert (head_of(backlog), backlog.items, backlog.tokens, backlog.owners) == (None, 0, 0, 0)
