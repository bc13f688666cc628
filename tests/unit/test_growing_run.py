"""A run whose items come bit by bit: how many there are, when it is done, what is left, what it goes on from."""

from typing import Any

import msgspec
import pytest
from batch_bench import make_run

from app.batches.record import BatchRecord, Label
from app.batches.results import RequestCounts, Status, Usage
from app.batches.run import BatchRun
from app.batches.sink import Brake, Rest
from app.dispatch.item import Item
from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.protocol import Outcome, PromptKind, Result


class Sink:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.results: list[dict[str, Any]] = []
        self.rests: list[Rest | None] = []

    def open(self, brake: Brake) -> None:
        pass

    def put(self, index: int, encoded: bytes, status: Status, result: Result) -> None:
        self.results.append(msgspec.json.decode(encoded))

    def close(self, rest: Rest | None) -> None:
        self.rests.append(rest)

    @property
    def left(self) -> list[dict[str, Any]]:
        """The results of what got none of its own."""
        (rest,) = self.rests
        return [msgspec.json.decode(result) for result in rest or ()]


Run = BatchRun[Sink]
NO = ItemError(ItemErrorCode.INVALID_PROMPT, "no")


def new_run(ended: list[object] | None = None, **earlier: Any) -> Run:
    done = [] if ended is None else ended
    return BatchRun(BatchRecord("a-model", 0), Sink(), done.append, **earlier)


def take(run: Run, *indexes: int) -> list[Item]:
    for index in indexes:
        run.take(index)
        run.add(Item(run, run.flow, index, PromptKind.TEXT, b'"x"', b"p", prompt_tokens=1, max_tokens=1))
    return [item for item in run.items if item.index in indexes]


def finish(run: Run, item: Item) -> None:
    item.attempts += 1
    run.item_started(item, 0)
    run.item_finished(item, Result(1, Outcome.OK, b"[]", prompt_tokens=2, completion_tokens=3), 0)


def test_a_run_is_done_when_it_is_complete_and_has_all_results() -> None:
    ended: list[object] = []
    run = new_run(ended)
    run.expect(1)
    finish(run, *take(run, 0))
    assert not run.done.is_set() and not run.sink.rests
    run.expect(2)
    assert run.request_counts == RequestCounts(total=3, ok=1, error=0, cancelled=0, timeout=0)
    first, second = take(run, 1, 2)
    finish(run, second)
    run.complete()
    run.complete()
    assert not run.done.is_set()
    finish(run, first)
    assert (run.done.is_set(), ended, run.sink.rests) == (True, [run], [None])
    run.complete()
    assert ended == [run]


def test_a_run_that_has_all_results_already_is_done_when_it_is_complete() -> None:
    ended: list[object] = []
    run = new_run(ended)
    run.expect(1)
    run.take(0)
    run.refuse(0, NO)
    assert not ended
    run.complete()
    assert (ended, run.sink.rests) == ([run], [None])


def test_nothing_more_can_be_expected_of_a_run_that_is_complete_or_ended() -> None:
    complete, ended = make_run(1), new_run()
    ended.end("cancelled")
    for run in (complete, ended):
        with pytest.raises(RuntimeError, match="no more items can be expected"):
            run.expect(1)


@pytest.mark.parametrize("index", [1, 0, 4, 10])
def test_a_prompt_that_came_before_or_that_nobody_expects_is_our_fault(index: int) -> None:
    run = new_run()
    run.expect(4)
    take(run, 0, 1)
    with pytest.raises(RuntimeError, match=rf"item {index} of .* comes after 1, of 4"):
        run.take(index)


def test_a_result_for_what_never_came_is_our_fault() -> None:
    run = new_run()
    run.expect(2)
    with pytest.raises(RuntimeError, match=r"item 1 of .* has a result already, or never came"):
        run.refuse(1, NO)


def test_an_end_gives_a_result_to_what_came_and_to_what_was_only_expected() -> None:
    run = new_run(label_untaken=lambda index: Label(f"untaken-{index}"))
    run.expect(6)
    items = take(run, 0, 1, 2)
    run.record.labels[2] = Label("taken-2")
    finish(run, items[1])
    items[2].attempts = 2
    run.take(3)  # its item was being made
    run.end("timeout")
    run.end("cancelled")
    assert [(left["index"], left["custom_id"], left["attempts"], left["status"]) for left in run.sink.left] == [
        (0, None, 0, "timeout"),
        (2, "taken-2", 2, "timeout"),
        (3, None, 0, "timeout"),
        (4, "untaken-4", 0, "timeout"),
        (5, "untaken-5", 0, "timeout"),
    ]
    assert run.request_counts == RequestCounts(total=6, ok=1, error=0, cancelled=0, timeout=5)


def test_a_run_of_which_more_was_to_come_ends_with_what_there_is() -> None:
    ended: list[object] = []
    run = new_run(ended)
    run.expect(1)
    finish(run, *take(run, 0))
    run.end("cancelled")
    assert (run.done.is_set(), ended, run.sink.left) == (True, [run], [])
    assert run.request_counts == RequestCounts(total=1, ok=1, error=0, cancelled=0, timeout=0)


def test_a_run_goes_on_from_the_results_that_were_had_before() -> None:
    earlier = Usage(prompt_tokens=10, completion_tokens=5, total_tokens=15)
    run = new_run(counts={"ok": 3, "error": 1}, usage=earlier)
    run.expect(6)
    run.complete()
    assert (run.ended, run.missing, run.done.is_set()) == (4, 2, False)
    for item in take(run, 1, 5):  # the others have theirs
        finish(run, item)
    assert run.done.is_set()
    assert run.request_counts == RequestCounts(total=6, ok=5, error=1, cancelled=0, timeout=0)
    assert (run.usage.prompt_tokens, run.usage.completion_tokens, run.usage.total_tokens) == (14, 11, 25)


def test_an_end_after_a_restart_counts_what_is_left() -> None:
    run = new_run(counts={"ok": 3})
    run.expect(6)
    run.complete()
    take(run, 2)
    run.end("cancelled")
    assert run.request_counts == RequestCounts(total=6, ok=3, error=0, cancelled=3, timeout=0)
    (rest,) = run.sink.rests
    assert rest is not None and (rest.taken, rest.untaken) == ((2,), range(3, 6))


def test_nothing_is_kept_of_an_item_that_has_its_result() -> None:
    run = new_run()
    run.expect(3)
    run.record.labels[1] = Label("x")
    first, second = take(run, 0, 1)
    finish(run, second)
    assert run.items == [first] and not run.record.labels
    finish(run, first)
    assert (run.items, run.missing) == ([], 1)


def test_who_watches_a_run_hears_of_what_it_may_have_to_read() -> None:
    run = new_run()
    heard: list[int] = []
    run.watch(lambda: heard.append(run.total))
    run.expect(2)
    item, _ = take(run, 0, 1)
    run.item_started(item, 0)
    run.complete()
    assert heard == [2, 2, 2]
