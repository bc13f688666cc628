"""Results on their way to a client that reads them: its window, when the batch is held back, and what is left over."""

from itertools import islice
from typing import Any

import msgspec
import pytest
from batch_bench import ROOMY, expecting, make_items

from app.batches.memory import HeldBytes
from app.batches.one_line import as_line
from app.batches.record import BatchRecord, Label
from app.batches.result_stream import ResultStream
from app.batches.run import BatchRun
from app.batches.sink import Rest
from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.protocol import Outcome, Result

WINDOW = 100


class Brake:
    """Counts how often it is used, and refuses to be used without need."""

    def __init__(self) -> None:
        self.holds = 0
        self.is_held = False

    def hold(self) -> None:
        assert not self.is_held
        self.holds += 1
        self.is_held = True

    def release(self) -> None:
        assert self.is_held
        self.is_held = False


@pytest.fixture
def held() -> HeldBytes:
    return HeldBytes(ROOMY, lambda: 0.0)


@pytest.fixture
def stream(held: HeldBytes) -> ResultStream:
    return ResultStream(held.open(), WINDOW)


def put(stream: ResultStream, *results: bytes, first: int = 0) -> None:
    for index, encoded in enumerate(results, first):
        stream.put(index, encoded, "ok", Result(0, Outcome.OK))


def test_results_are_taken_in_the_order_they_came_and_are_forgotten_then(stream: ResultStream, held: HeldBytes) -> None:
    put(stream, b"two", first=2)
    put(stream, b"zero")
    assert held.total == 9
    assert list(stream.take()) == [b"two\n", b"zero\n"]
    assert (held.total, list(stream.take()), stream.is_read) == (0, [], False)
    put(stream, b"one", first=1)
    stream.close(None)
    assert not stream.is_read
    assert (list(stream.take()), stream.is_read) == ([b"one\n"], True)


def test_what_comes_while_others_are_taken_is_taken_with_them(stream: ResultStream) -> None:
    put(stream, b"a")
    lines = stream.take()
    assert next(lines) == b"a\n"
    put(stream, b"b")
    stream.close(None)
    assert list(lines) == [b"b\n"]
    assert stream.is_read


def test_a_result_counts_as_held_until_the_next_is_asked_for(stream: ResultStream, held: HeldBytes) -> None:
    put(stream, b"a" * 29, b"b" * 19)
    lines = stream.take()
    next(lines)
    assert held.total == 50
    next(lines)
    assert held.total == 20


def test_a_full_window_holds_the_batch_back_until_half_of_it_is_free(stream: ResultStream) -> None:
    brake = Brake()
    stream.open(brake)
    put(stream, *[b"x" * 9] * 9)
    assert brake.holds == 0
    put(stream, *[b"x" * 9] * 3)  # beyond the window, for they were running
    assert (brake.holds, brake.is_held) == (1, True)
    lines = stream.take()
    list(islice(lines, 7))
    assert brake.is_held
    next(lines)
    assert not brake.is_held  # 50 are left
    list(lines)
    put(stream, *[b"x" * 9] * 10)
    assert brake.holds == 2


def test_items_that_were_refused_before_the_batch_began_fill_the_window_too(stream: ResultStream) -> None:
    put(stream, b"x" * WINDOW)
    brake = Brake()
    stream.open(brake)
    assert brake.is_held
    list(stream.take())
    assert not brake.is_held


def test_who_waits_hears_of_results_and_of_the_end(stream: ResultStream) -> None:
    assert not stream.news.is_set()
    put(stream, b"a")
    assert stream.news.is_set()
    list(stream.take())
    assert not stream.news.is_set()
    stream.close(None)
    assert stream.news.is_set()


def test_results_of_what_is_left_are_made_one_by_one_as_they_are_taken(stream: ResultStream) -> None:
    made: list[int] = []

    def read(index: int) -> bytes:
        made.append(index)
        return b"%d" % index

    put(stream, b"own")
    stream.close(Rest((1,), range(3, 5), read))
    lines = stream.take()
    assert [next(lines), next(lines)] == [b"own\n", b"1\n"]
    assert (made, stream.is_read) == ([1], False)
    assert list(lines) == [b"3\n", b"4\n"]
    assert stream.is_read


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_a_result_that_repeats_what_was_sent_on_many_lines_is_one_line(end: str) -> None:
    line = as_line(f'{{"metadata":{{{end}"row":{end}7}}}}'.encode())
    assert len(line.decode().splitlines()) == 1
    assert msgspec.json.decode(line) == {"metadata": {"row": 7}}


@pytest.mark.parametrize("end", ["\x85", "\u2028", "\u2029"])
def test_text_that_holds_what_some_take_for_the_end_of_a_line_is_one_line(end: str) -> None:
    line = as_line(f'{{"text":"été{end}{end}\\n"}}'.encode())
    assert len(line.decode().splitlines()) == 1
    assert msgspec.json.decode(line) == {"text": f"été{end}{end}\n"}


def test_what_is_released_is_forgotten_and_counts_no_more(stream: ResultStream, held: HeldBytes) -> None:
    put(stream, b"a", b"b")
    lines = stream.take()
    next(lines)
    stream.release()
    stream.release()
    put(stream, b"a result that comes after the client has gone")
    assert held.total == 0


def test_every_item_of_a_run_that_ends_early_has_one_line(held: HeldBytes) -> None:
    run = expecting(BatchRun(BatchRecord("a-model", 0), ResultStream(held.open(), WINDOW), lambda _: None), 5)
    items = make_items(run)
    run.record.labels[4] = Label("last", b"[1]")
    for item in items[1:4]:
        item.attempts = 1
        run.item_started(item, 0)
    run.refuse(0, ItemError(ItemErrorCode.INVALID_PROMPT, "no"))
    run.item_finished(items[3], Result(1, Outcome.OK, b"[]"), 0)
    run.end("timeout")
    lines: list[dict[str, Any]] = [msgspec.json.decode(line) for line in run.sink.take()]
    assert [line["index"] for line in lines] == [0, 3, 1, 2, 4]
    assert [line["status"] for line in lines] == ["error", "ok", "timeout", "timeout", "timeout"]
    assert [line["attempts"] for line in lines] == [0, 1, 1, 1, 0]
    assert (lines[4]["custom_id"], lines[4]["metadata"]) == ("last", [1])
    assert run.sink.is_read
