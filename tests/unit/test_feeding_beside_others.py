"""A batch that comes in windows beside others: its share, its part of the backlog, and how it ends before its end."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, overload

import pytest
from batch_bench import make_items
from dispatch_bench import aborted
from feeding_bench import Collected, House, Listed, Run, house, prompts, quiet, until

from app.batches.admission import SMALLEST_WINDOW
from app.batches.feeding import Window
from app.dispatch.item import Owner
from app.errors import TryLater
from engines.contract.item_errors import ItemError, ItemErrorCode

ONE, OTHER = Owner("one"), Owner("other")
MILLION = 1_000_000


class Endless(Sequence[bytes]):
    """A million prompts, none of which exists before it is read."""

    def __init__(self, first: bytes) -> None:
        self._first = first

    def __len__(self) -> int:
        return MILLION

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        return b'"%s%s"' % (self._first, str(index).encode())


def play(scenario: Callable[[House], Coroutine[Any, Any, None]], **of_house: Any) -> None:
    async def run() -> None:
        async with house(**of_house) as made:
            await scenario(made)

    asyncio.run(run())


def attached(made: House, count: int, owner: Owner = OTHER) -> Run:
    """A batch that is sent whole. Raises TryLater when there is no room."""
    run = made.make(owner=owner)
    run.expect(count)
    run.complete()
    make_items(run, max_tokens=9)
    made.runs.begin(run, None)
    return run


# ---------------------------------------------------------------- its share


@pytest.mark.parametrize("owner", [ONE, OTHER])
def test_a_batch_of_20_behind_one_of_a_million_has_the_next_free_sequence(owner: Owner) -> None:
    async def scenario(made: House) -> None:
        million = made.begin(Listed(Endless(b"m")), Window(1000, 10**6), owner=ONE)
        await quiet()
        assert (len(made.sent()), len(million.flow.waiting)) == (4, 996)
        for _ in range(5):
            made.bench.answer(0)
        small = made.begin(Listed(prompts(20)), Window(1000, 10**6), owner=owner)
        await quiet()
        made.bench.answer(0, next(iter(made.bench.held[0])))
        assert made.sent()[-1] == b'"0"'
        before = million.ended
        await made.finish(small)
        assert million.ended - before <= 20 + 4 * 4, "they take turns"
        made.runs.cancel(million)

    play(scenario, quantum=40)


@pytest.mark.parametrize("window", [4, 8, 100])
def test_an_owner_gets_its_share_whether_its_batch_comes_whole_or_in_windows(window: int) -> None:
    async def scenario(made: House) -> None:
        windowed = made.begin(Listed(prompts(4000)), Window(window, 10**6), owner=ONE)
        whole = attached(made, 4000)
        await quiet()
        for _ in range(400):
            made.bench.answer(0)
            await quiet()
        counts = Counter({"windowed": windowed.ended, "whole": whole.ended})
        assert counts["windowed"] == pytest.approx(counts["whole"], abs=30)
        for run in (windowed, whole):
            made.runs.cancel(run)

    play(scenario, quantum=20)


def test_two_batches_in_windows_of_one_owner_share_what_it_gets() -> None:
    async def scenario(made: House) -> None:
        first, second = (made.begin(Listed(prompts(2000)), Window(10, 10**6), owner=ONE) for _ in range(2))
        whole = attached(made, 2000)
        await quiet()
        for _ in range(300):
            made.bench.answer(0)
            await quiet()
        assert first.ended == pytest.approx(300, abs=30)
        assert second.ended == pytest.approx(300, abs=30)
        assert whole.ended == pytest.approx(600, abs=30)
        for run in (first, second, whole):
            made.runs.cancel(run)

    play(scenario, quantum=20)


# ---------------------------------------------------------------- its part of the backlog


def test_windows_leave_half_of_the_backlog_to_those_who_send_all_at_once() -> None:
    async def scenario(made: House) -> None:
        windowed = made.begin(Listed(Endless(b"")), Window(1000, 10**6), owner=ONE)
        await until(lambda: windowed.flow.waiting)
        await quiet()
        assert len(windowed.flow.waiting) <= 200
        whole = attached(made, 200)
        await made.finish(whole)
        made.runs.cancel(windowed)

    play(scenario, max_waiting_items=400)


def test_in_a_full_backlog_a_batch_has_a_small_window_whenever_it_has_none() -> None:
    async def scenario(made: House) -> None:
        whole = attached(made, 400)
        windowed = made.begin(Listed(prompts(200)), Window(1000, 10**6), owner=ONE)
        await quiet()
        assert len(windowed.flow.waiting) == SMALLEST_WINDOW
        with pytest.raises(TryLater):
            attached(made, 10)
        for _ in range(20):
            made.bench.answer(0)
            await quiet()
            assert len(windowed.flow.waiting) <= SMALLEST_WINDOW
        await made.finish(windowed, whole)
        assert (windowed.counts["ok"], whole.counts["ok"]) == (200, 400)

    play(scenario, max_waiting_items=400, quantum=20)


def test_what_an_owner_may_have_waiting_bounds_its_windows() -> None:
    async def scenario(made: House) -> None:
        owner = Owner("small", max_waiting_items=20)
        windowed = made.begin(Listed(prompts(200)), Window(1000, 10**6), owner=owner)
        most = 0
        while not windowed.done.is_set():
            await quiet()
            most = max(most, len(windowed.flow.waiting))
            made.bench.answer(0)
        assert 10 <= most <= 20
        assert windowed.counts["ok"] == 200

    play(scenario)


def test_a_backlog_with_too_many_tokens_takes_small_windows_only() -> None:
    async def scenario(made: House) -> None:
        whole = attached(made, 70)
        windowed = made.begin(Listed(prompts(200)), Window(1000, 10**6), owner=ONE)
        await quiet()
        assert len(windowed.flow.waiting) == SMALLEST_WINDOW
        await made.finish(windowed, whole)

    play(scenario, max_waiting_tokens=1000)


# ---------------------------------------------------------------- held back


def test_a_batch_whose_results_nobody_takes_waits_with_its_window() -> None:
    async def scenario(made: House) -> None:
        run = made.begin(Listed(prompts(50)))
        await quiet()
        run.sink.brake.hold()
        made.bench.answer(0)
        await quiet()
        assert (len(made.sent()), made.bench.held[0]) == (4, {})
        assert 4 <= len(run.flow.waiting) <= 8
        assert made.runs.held_back == 1
        run.sink.brake.release()
        await made.finish(run)
        assert run.counts["ok"] == 50

    play(scenario)


# ---------------------------------------------------------------- ended early


def reading(source: Listed) -> None:
    """The next window is being read from now on."""
    source.gate = asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("next_window", ["is not due", "is being read", "has just been read"])
@pytest.mark.parametrize("how", ["cancelled", "error", "timeout"])
def test_a_batch_that_ends_early_has_a_result_for_each_item_and_reads_no_more(how: str, next_window: str) -> None:
    async def scenario(made: House) -> None:
        source = Listed(prompts(100))
        run = made.begin(source)
        await until(lambda: len(made.sent()) == 4)
        if next_window != "is not due":
            reading(source)
        made.bench.answer(0)
        await quiet()
        reads, came = len(source.windows), sorted(run.sink.results)
        held = list(made.bench.held[0])
        if source.gate is not None and next_window == "has just been read":
            source.gate.set_result(None)
        match how:
            case "cancelled":
                made.runs.cancel(run)
            case "error":
                made.runs.end_all(ItemError(ItemErrorCode.SHUTTING_DOWN, "bye"))
            case "timeout":
                made.runs._expire(run)
        assert run.done.is_set() and not made.runs.active
        assert sorted(made.bench.aborts(0)) == sorted(held)
        await quiet()
        made.bench.answer(0, *held, make=aborted)
        await quiet()
        assert (len(source.windows), list(run.flow.waiting)) == (reads, [])
        assert came == list(range(4))
        assert run.sink.left == list(range(4, 100))
        assert (run.counts["ok"], sum(run.counts.values())) == (4, 100)

    play(scenario)


def test_a_batch_that_is_dropped_tells_nobody_and_can_be_gone_on_with() -> None:
    async def scenario(made: House) -> None:
        source = Listed(prompts(100))
        run = made.begin(source)
        await until(lambda: len(made.sent()) == 4)
        made.bench.answer(0)
        await quiet()
        held = list(made.bench.held[0])
        made.runs.drop(run)
        made.runs.drop(run)
        await asyncio.wait_for(made.runs.wait_idle(), 1)
        made.bench.answer(0, *held, make=aborted)
        assert (run.done.is_set(), run.sink.rests, len(run.sink.results)) == (False, [], 4)
        source.finished = set(run.sink.results)
        again = made.begin(source, counts=run.counts)
        await made.finish(again)
        assert sorted([*run.sink.results, *again.sink.results]) == list(range(100))
        assert again.counts["ok"] == 100

    play(scenario)


def test_a_feeder_can_be_stopped_in_any_state() -> None:
    async def scenario(made: House) -> None:
        run: Run = made.make()
        run.expect(10)
        run.complete()
        source = Listed(prompts(10))
        never = made.feeder(run, source)
        await never.stop()
        never.start()
        await never.stop()
        await quiet()
        assert source.windows == []
        feeder = made.feeder(run, source)
        reading(source)
        feeder.start()
        await quiet()
        await feeder.stop()
        await feeder.stop()
        assert isinstance(run.sink, Collected) and run.items == []
        other = made.begin(Listed(prompts(10)))
        await made.finish(other)
        await made.feeders[-1].stop()

    play(scenario)


def test_the_service_stops_while_windows_are_read() -> None:
    async def scenario(made: House) -> None:
        source = Listed(prompts(10))
        reading(source)
        runs = [made.begin(source) for _ in range(3)]
        await quiet()
        made.runs.cancel(runs[0])
        await made.runs.stop()
        await made.runs.stop()
        assert all(feeder.is_stopped for feeder in made.feeders)
        made.runs.end_all(ItemError(ItemErrorCode.SHUTTING_DOWN, "bye"))

    play(scenario)
