"""A batch that comes in windows: every item runs once, in order, and no more of them are there than a window holds."""

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from dispatch_bench import aborted, ok
from feeding_bench import House, Listed, house, prompts, quiet, until
from hypothesis import given, settings
from hypothesis import strategies as st

from app.batches.feeding import Window, retry_while_unavailable
from app.dispatch.item import Item
from app.journal.errors import JournalUnavailable
from app.ranks.events import LossKind
from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.protocol import Outcome, Result


def play(scenario: Callable[[House], Coroutine[Any, Any, None]], **of_house: Any) -> None:
    async def run() -> None:
        async with house(**of_house) as made:
            await scenario(made)

    asyncio.run(run())


# ---------------------------------------------------------------- to the end


@pytest.mark.parametrize("count", [1, 7, 8, 9, 100])
def test_every_item_runs_once_and_in_order(count: int) -> None:
    async def scenario(made: House) -> None:
        source = Listed(prompts(count))
        run = made.begin(source)
        await made.finish(run)
        assert made.sent() == source.prompts
        assert sorted(run.sink.results) == list(range(count))
        assert (run.counts["ok"], run.sink.rests, made.failures) == (count, [None], [])

    play(scenario)


def test_no_more_items_are_there_than_the_window_and_what_runs() -> None:
    def living_items() -> int:
        gc.collect()
        return sum(type(thing) is Item for thing in gc.get_objects())

    async def scenario(made: House) -> None:
        run = made.begin(
            Listed([b'{"prompt":"a","custom_id":"%d"}' % index for index in range(300)]), Window(10, 10**6)
        )
        most = 0
        while len(run.sink.results) < 250:
            await quiet()
            most = max(most, len(run.items), len(run.record.labels))
            made.bench.answer(0)
        assert 10 <= most <= 10 + 4
        assert living_items() - before <= 10 + 4
        await made.finish(run)
        assert (living_items() - before, run.record.labels) == (0, {})

    before = living_items()
    play(scenario)


def test_the_next_window_is_read_when_half_of_the_last_is_gone() -> None:
    async def scenario(made: House) -> None:
        source = Listed(prompts(100))
        run = made.begin(source, Window(20, 10**6))
        await quiet()  # 4 of the first 20 have gone to the rank
        assert source.windows == [list(range(20))]
        made.bench.answer(0)
        await quiet()
        assert len(run.flow.waiting) == 12
        made.bench.answer(0)
        await quiet()
        assert source.windows == [list(range(20)), list(range(20, 32))]
        await made.finish(run)

    play(scenario)


def test_a_window_is_bounded_in_bytes_and_holds_one_item_in_any_case() -> None:
    async def scenario(made: House) -> None:
        source = Listed([b'"%s"' % (b"x" * 98)] * 9)
        await made.finish(made.begin(source, Window(8, 250)))
        assert max(map(len, source.windows)) == 2
        source = Listed([b'"%s"' % (b"x" * 300)] * 9)
        await made.finish(made.begin(source, Window(8, 250)))
        assert max(map(len, source.windows)) == 1

    play(scenario)


def test_bad_prompts_are_refused_in_their_windows_and_the_last_result_may_be_a_refusal() -> None:
    async def scenario(made: House) -> None:
        bodies = [b"5" if index % 3 == 2 else b'"a"' for index in range(30)]
        run = made.begin(Listed(bodies))
        await made.finish(run)
        assert run.counts == {"ok": 20, "error": 10, "cancelled": 0, "timeout": 0}
        run = made.begin(Listed([b"5"] * 30))
        await made.finish(run)
        assert run.counts["error"] == 30

    play(scenario)


def test_a_batch_whose_size_grows_is_read_as_it_grows() -> None:
    async def scenario(made: House) -> None:
        source = Listed([])
        run = made.make()
        made.runs.begin(run, None, made.feeder(run, source))
        for size in (1, 3, 40):
            source.prompts = prompts(size)
            run.expect(size - run.total)
            await quiet()
            while len(run.sink.results) < size:
                made.bench.answer(0)
                await quiet()
            reads = len(source.windows)
            await quiet()
            assert len(source.windows) == reads, "a source with nothing more is left alone"
            assert not run.done.is_set()
        run.complete()
        assert run.done.is_set()
        assert made.sent() == source.prompts
        assert (run.total, run.sink.rests) == (40, [None])

    play(scenario)


def test_items_that_come_while_the_source_says_that_there_are_none_are_read() -> None:
    async def scenario(made: House) -> None:
        source = Listed([])
        source.gate = asyncio.get_running_loop().create_future()
        run = made.make()
        made.runs.begin(run, None, made.feeder(run, source))
        await quiet()
        gate, source.gate = source.gate, asyncio.get_running_loop().create_future()
        gate.set_result(None)  # it finds none, and before that is known:
        run.expect(2)
        run.complete()
        source.prompts = prompts(2)
        source.gate.set_result(None)
        await made.finish(run)
        assert run.counts["ok"] == 2

    play(scenario)


def test_after_a_restart_only_what_has_no_result_runs() -> None:
    async def scenario(made: House) -> None:
        source = Listed(prompts(50), finished=[*range(10), *range(20, 45)])
        run = made.begin(source, counts={"ok": 30, "error": 5})
        await made.finish(run)
        assert sorted(run.sink.results) == [*range(10, 20), *range(45, 50)]
        assert run.counts == {"ok": 45, "error": 5, "cancelled": 0, "timeout": 0}

    play(scenario)


def test_a_batch_that_had_all_results_before_ends_at_once() -> None:
    async def scenario(made: House) -> None:
        source = Listed(prompts(3), finished=range(3))
        run = made.begin(source, counts={"ok": 3})
        assert run.done.is_set() and not made.runs.active
        await quiet()
        assert source.windows == []

    play(scenario)


# ---------------------------------------------------------------- errors of the source


def test_a_source_that_is_not_available_is_asked_again() -> None:
    async def scenario(made: House) -> None:
        source = Listed(prompts(30))
        source.errors = [JournalUnavailable("the disk is full")] * 3
        asked: list[int] = []

        def retry(error: Exception, failures: int) -> float | None:
            asked.append(failures)
            return 0.0

        run = made.begin(source, retry=retry)
        await until(lambda: source.windows)
        source.errors = [JournalUnavailable("the disk is full again")]
        await made.finish(run)
        assert asked == [1, 2, 3, 1]
        assert (run.counts["ok"], made.failures) == (30, [])

    play(scenario)


def test_another_error_is_told_and_the_run_is_left_as_it_is() -> None:
    async def scenario(made: House) -> None:
        source = Listed(prompts(30))
        run = made.begin(source)
        await until(lambda: source.windows)
        source.errors = [OSError("the page is corrupt")]
        made.bench.answer(0)
        await until(lambda: made.failures)
        ((failed, error),) = made.failures
        assert (failed, str(error)) == (run, "the page is corrupt")
        while any(made.bench.held.values()):
            made.bench.answer(0)
        assert (sorted(run.sink.results), run.done.is_set()) == (list(range(8)), False)
        made.runs.end_all(ItemError(ItemErrorCode.ENGINE_ERROR, "the items cannot be read"))
        assert (run.sink.left, run.counts["error"]) == (list(range(8, 30)), 22)

    play(scenario)


def test_a_source_that_ends_before_all_have_come_is_an_error() -> None:
    async def scenario(made: House) -> None:
        source = Listed(prompts(10), finished=[3, 4])  # and nobody says that they are
        run = made.begin(source)
        while not made.failures:
            made.bench.answer(0)
            await quiet()
        assert f"2 items of {run.record.id} are not where they are kept" in str(made.failures[0][1])
        made.runs.drop(run)

    play(scenario)


def test_only_a_journal_that_is_not_available_is_waited_for_and_longer_each_time() -> None:
    assert retry_while_unavailable(OSError(), 1) is None
    waits = [retry_while_unavailable(JournalUnavailable("full"), failures) for failures in (1, 2, 3, 10, 1000)]
    assert waits == [0.5, 1.0, 2.0, 15.0, 15.0]


# ---------------------------------------------------------------- any traffic


@settings(max_examples=40)
@given(
    count=st.integers(1, 60),
    window=st.integers(1, 20),
    bad=st.sets(st.integers(0, 59)),
    finished=st.sets(st.integers(0, 59)),
    data=st.data(),
)
def test_every_item_gets_one_result_whatever_happens(
    count: int, window: int, bad: set[int], finished: set[int], data: st.DataObject
) -> None:
    """Ranks that answer in any order, give items up, and crash; clients that hold the batch back, and cancel it."""

    async def scenario(made: House) -> None:
        had = {index for index in finished if index < count}
        bodies = [b"5" if index in bad else b'"a"' for index in range(count)]
        run = made.begin(Listed(bodies, had), Window(window, 10**6), counts={"ok": len(had)})
        for _ in range(data.draw(st.integers(0, 15))):
            await quiet()
            if run.done.is_set():
                break
            match data.draw(st.sampled_from(["answer", "answer", "give up", "crash", "hold", "release"])):
                case "answer" | "give up" as kind if made.bench.held[0]:
                    make = ok if kind == "answer" else lambda attempt: Result(attempt, Outcome.LOST)
                    attempts = data.draw(st.lists(st.sampled_from(list(made.bench.held[0])), min_size=1, unique=True))
                    made.bench.answer(0, *attempts, make=make)
                case "crash":
                    made.bench.lose(0, kind=data.draw(st.sampled_from([LossKind.DIED, LossKind.ENDED])))
                    made.bench.ready(0)
                case "hold":
                    run.sink.brake.hold()
                case "release":
                    run.sink.brake.release()
        if data.draw(st.booleans()):
            held = dict(made.bench.held[0])
            made.runs.cancel(run)
            made.bench.answer(0, *held, make=aborted)
        elif not run.done.is_set():
            run.sink.brake.release()
            await made.finish(run)
        left = [index for index in run.sink.left if index not in had]
        assert sorted([*run.sink.results, *left, *had]) == list(range(count))
        assert sum(run.counts.values()) == count

    play(scenario)
