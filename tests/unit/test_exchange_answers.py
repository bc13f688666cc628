"""What a response reads of exchanges under way: one, and several whose answers are put together."""

from typing import Any

import msgspec

from app.batches.memory import HeldBytes
from app.dispatch.item import Flow, Item
from app.exchanges.exchange import TAKEN_BYTES, ExchangeRun
from app.exchanges.many import ManyAnswers
from app.exchanges.parts import parts_of
from app.exchanges.request import ExchangeRequest
from app.traces import BatchTrace
from engines.contract.exchanges import AnswerHead, Exchange, ExchangeHead
from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.protocol import Chunk, Outcome, PromptKind, Result

JSON, EVENTS = AnswerHead(200, "application/json"), AnswerHead(200, "text/event-stream")
DONE = b"data: [DONE]\n\n"


class Bench:
    """Exchanges of one request whose ranks are played."""

    def __init__(self, path: Exchange = Exchange.COMPLETIONS, **fields: Any) -> None:
        request = ExchangeRequest(path, msgspec.json.encode(fields))
        parts = parts_of(request, 1000)
        self.held = HeldBytes(10**9, lambda: 1.0)
        self.told: list[int] = []
        self.done: list[ExchangeRun] = []
        holding, flow = self.held.open(), Flow(0, "a")
        head = ExchangeHead(path, "r", request.streams).encode()
        self.runs = []
        for part in parts:
            run = ExchangeRun(
                path,
                flow,
                "a",
                holding,
                lambda _, size: self.told.append(size),
                lambda run, _: self.done.append(run),
                BatchTrace(),
            )
            run.item = Item(
                run, flow, 0, PromptKind.EXCHANGE, part.body, head, prompt_tokens=1, max_tokens=1, sequences=1
            )
            self.runs.append(run)
        self.answer = ManyAnswers(request, parts, self.runs)

    def comes(self, place: int, *contents: dict[str, Any] | bytes, head: AnswerHead | None = None) -> None:
        """The next events of one of them."""
        events = [c if isinstance(c, bytes) else b"data: " + msgspec.json.encode(c) + b"\n\n" for c in contents]
        self.runs[place].item_chunk(self.runs[place].item, Chunk(1, b"".join(events), head))

    def ends(self, place: int, body: object = None, head: AnswerHead | None = None, **fields: Any) -> None:
        outputs = msgspec.json.encode(body) if body is not None else b""
        self.finishes(place, Result(1, Outcome.OK, outputs, head=head, **fields))

    def finishes(self, place: int, result: Result) -> None:
        self.runs[place].item_finished(self.runs[place].item, result, 0)

    def taken(self) -> list[Any]:
        return events_of(self.answer.take())


def events_of(body: bytes) -> list[Any]:
    events = [event.removeprefix(b"data: ") for event in body.split(b"\n\n") if event]
    return ["[DONE]" if event == b"[DONE]" else msgspec.json.decode(event) for event in events]


def chunk(index: int, text: str, number: int = 1) -> dict[str, Any]:
    return {"id": f"id-{number}", "choices": [{"index": index, "text": text}]}


# ---------------------------------------------------------------- one


def test_a_stream_is_taken_in_order_and_its_rank_told_now_and_then() -> None:
    bench = Bench(prompt="a", stream=True)
    (run,) = bench.runs
    bench.comes(0, b"one", head=EVENTS)
    bench.comes(0, b"two")
    assert (run.take(), run.take(), run.head) == (b"onetwo", b"", EVENTS)
    assert bench.held.total == 6
    run.taken(6)
    assert (bench.held.total, bench.told) == (0, [])
    bench.comes(0, b"x" * TAKEN_BYTES)
    run.taken(len(run.take()))
    assert (bench.held.total, bench.told) == (0, [TAKEN_BYTES + 6])


def test_a_stream_that_is_broken_off_is_tried_with_nobody_to_read_it() -> None:
    bench = Bench(prompt="a", stream=True)
    (run,) = bench.runs
    bench.comes(0, b"one", head=EVENTS)
    run.item.has_begun = True
    run.item_lost(run.item, 0)
    assert run.ending is not None
    assert run.ending.error is not None
    assert run.ending.error.code is ItemErrorCode.RANK_LOST
    bench.comes(0, b"again")
    assert (run.take(), bench.told) == (b"one", [5])
    bench.ends(0)
    assert run.ending.error is not None, "it has ended once"
    assert bench.done == [run]


def test_what_is_lost_before_it_has_begun_goes_on() -> None:
    bench = Bench(prompt="a")
    (run,) = bench.runs
    run.item_lost(run.item, 0)
    assert run.ending is None
    bench.ends(0, {"a": 1}, JSON)
    assert (run.ending.head, run.ending.body) == (JSON, b'{"a":1}')


# ---------------------------------------------------------------- several


def test_whole_answers_are_one_with_the_places_and_the_sums_of_all() -> None:
    bench = Bench(prompt=["a", "b"], n=2)
    for place in (1, 0):
        assert bench.answer.ending is None
        choices = [{"index": number, "text": f"{place}{number}"} for number in range(2)]
        usage = {"prompt_tokens": place + 1, "prompt_tokens_details": {"cached_tokens": 3}, "other": None}
        bench.ends(place, {"id": f"id-{place}", "choices": choices, "usage": usage}, JSON)
    whole = msgspec.json.decode(bench.answer.ending.body)
    assert [(choice["index"], choice["text"]) for choice in whole["choices"]] == [
        (0, "00"),
        (1, "01"),
        (2, "10"),
        (3, "11"),
    ]
    assert whole["usage"] == {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 6}, "other": None}
    assert (whole["id"], bench.answer.ending.head) == ("id-0", JSON)


def test_streams_are_one_with_the_places_of_all_one_id_and_one_end() -> None:
    bench = Bench(prompt=["a", "b"], n=2, stream=True)
    bench.comes(1, chunk(1, "x", 1), head=EVENTS)
    bench.comes(0, chunk(0, "y", 0), chunk(1, "z", 0), head=EVENTS)
    events = bench.taken()
    assert sorted((event["choices"][0]["index"], event["choices"][0]["text"]) for event in events) == [
        (0, "y"),
        (1, "z"),
        (3, "x"),
    ]
    assert len({event["id"] for event in events}) == 1
    for place in (0, 1):
        last = {"id": f"id-{place}", "choices": [], "usage": {"total_tokens": 5, "details": None}}
        bench.comes(place, last, DONE)
        bench.ends(place)
    assert bench.taken() == []
    usage, done = events_of(bench.answer.ending.body)
    assert (usage["usage"], usage["choices"], done) == ({"total_tokens": 10, "details": None}, [], "[DONE]")


def test_streams_without_usage_end_without_it() -> None:
    bench = Bench(prompt=["a", "b"], stream=True)
    for place in (0, 1):
        bench.comes(place, chunk(0, "x"), DONE, head=EVENTS)
        bench.ends(place)
    assert len(bench.taken()) == 2
    assert bench.answer.ending.body == DONE


def test_the_first_refusal_and_the_first_error_are_the_answer_of_all() -> None:
    refused = AnswerHead(400, "application/json")
    bench = Bench(prompt=["a", "b", "c"])
    bench.ends(1, {"error": {"message": "no"}}, refused)
    assert bench.answer.ending.head == refused
    bench = Bench(prompt=["a", "b", "c"])
    bench.finishes(2, Result(1, Outcome.ERROR, error=ItemError(ItemErrorCode.RANK_LOST, "lost")))
    assert bench.answer.ending.error.message == "lost"


def test_embeddings_have_the_places_of_their_inputs() -> None:
    bench = Bench(Exchange.EMBEDDINGS, input=["x"] * 20)
    for place, count in ((0, 16), (1, 4)):
        data = [{"index": number, "embedding": [place]} for number in range(count)]
        bench.ends(place, {"data": data, "usage": {"total_tokens": count}}, JSON)
    whole = msgspec.json.decode(bench.answer.ending.body)
    assert [entry["index"] for entry in whole["data"]] == list(range(20))
    assert whole["data"][16]["embedding"] == [1]
    assert whole["usage"] == {"total_tokens": 20}


def test_the_numbers_of_a_vector_stay_as_they_were_written() -> None:
    bench = Bench(Exchange.EMBEDDINGS, input=["x"] * 17)
    for place, count in ((0, 16), (1, 1)):
        entry = b'{"index":0,"embedding":[0.10,-1.0E-05]}'
        body = b'{"data":[' + b",".join([entry] * count) + b'],"usage":{"total_tokens":1}}'
        bench.finishes(place, Result(1, Outcome.OK, body, head=JSON))
    assert bench.answer.ending.body.count(b"[0.10,-1.0E-05]") == 17
