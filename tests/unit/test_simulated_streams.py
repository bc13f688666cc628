"""Streams of the simulated engine: a chunk a step, a window, and ends of all kinds."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from simulated_bench import DEADLINE_S, Bench, drive, text

from engines.contract.exchanges import STREAM_WINDOW_BYTES, AnswerHead, Exchange
from engines.contract.protocol import Chunk, Outcome, Result

COMPLETIONS, CHAT = Exchange.COMPLETIONS, Exchange.CHAT_COMPLETIONS
HI = [{"role": "user", "content": "Hi"}]
LONG = {"prompt": "Hi", "max_tokens": 8000, "stream": True}  # more than the window holds


def texts_of(events: list[dict[str, Any]]) -> dict[int, str]:
    """By index."""
    texts: dict[int, str] = {}
    for event in events:
        for choice in event["choices"]:
            piece = choice["text"] if "text" in choice else choice["delta"]["content"]
            texts[choice["index"]] = texts.get(choice["index"], "") + piece
    return texts


# ---------------------------------------------------------------- what is streamed


@pytest.mark.parametrize("step_ms", [0, 0.1])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, {"prompt": "Hello", "max_tokens": 12}),
        (COMPLETIONS, {"prompt": ["a", "b"], "n": 2, "max_tokens": 300, "stop": ["bar", "a", "ni"]}),
        (COMPLETIONS, {"prompt": "Hello", "max_tokens": 300, "stop": "e", "include_stop_str_in_output": True}),
        (COMPLETIONS, {"prompt": "Hello", "max_tokens": 1}),
        (CHAT, {"messages": HI, "n": 3, "max_tokens": 100, "stop": ["u"]}),
    ],
)
def test_a_stream_has_the_texts_and_the_usage_of_the_same_body_unstreamed(
    path: Exchange, body: dict[str, Any], step_ms: float
) -> None:
    async def scenario(bench: Bench) -> None:
        whole = await bench.answer(1, path, body)
        bench.exchange(2, path, body | {"stream": True, "stream_options": {"include_usage": True}})
        (result,) = await bench.results_of(2)
        assert (result.outcome, result.head, result.outputs) == (Outcome.OK, None, b"[]")
        *events, last = bench.streamed(2)
        expected = {
            choice["index"]: choice["text"] if "text" in choice else choice["message"]["content"]
            for choice in whole["choices"]
        }
        assert texts_of(events) == expected
        ends = {choice["index"]: choice for event in events for choice in event["choices"] if choice["finish_reason"]}
        for choice in whole["choices"]:
            end = ends[choice["index"]]
            assert (end["finish_reason"], end["stop_reason"]) == (choice["finish_reason"], choice["stop_reason"])
        assert (last["choices"], last["usage"]) == ([], whole["usage"])
        assert [result.prompt_tokens, result.completion_tokens, result.stopped_by_length] == [
            bench.results[1].prompt_tokens,
            bench.results[1].completion_tokens,
            bench.results[1].stopped_by_length,
        ]

    drive(scenario, step_ms=step_ms)


def test_the_events_have_the_shape_of_openais_api() -> None:
    async def scenario(bench: Bench) -> None:
        bench.exchange(1, COMPLETIONS, {"model": "mine", "prompt": "Hi", "max_tokens": 2, "stream": True})
        bench.exchange(2, CHAT, {"messages": HI, "max_tokens": 1, "stream": True})
        await bench.results_of(1, 2)
        first, second = bench.streamed(1)
        created = first.pop("created")
        assert len(first["choices"][0].pop("text")) == 4
        choice = {"index": 0, "logprobs": None, "finish_reason": None, "stop_reason": None}
        head = {"id": "cmpl-1", "object": "text_completion", "model": "mine", "simulated": True}
        assert first == head | {"choices": [choice]}
        assert second["created"] == created
        assert second["choices"][0]["finish_reason"] == "length"
        role, content = bench.streamed(2)
        assert (role["id"], role["object"]) == ("chatcmpl-2", "chat.completion.chunk")
        assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert role["choices"][0]["finish_reason"] is None
        assert list(content["choices"][0]["delta"]) == ["content"]
        assert content["choices"][0]["finish_reason"] == "length"

    drive(scenario)


def test_usage_can_be_told_with_every_token() -> None:
    async def scenario(bench: Bench) -> None:
        options = {"include_usage": True, "continuous_usage_stats": True}
        body = {"prompt": "12345678", "max_tokens": 3, "stream": True, "stream_options": options}
        bench.exchange(1, COMPLETIONS, body)
        await bench.results_of(1)
        told = [event["usage"] for event in bench.streamed(1)]
        assert [usage["completion_tokens"] for usage in told] == [1, 2, 3, 3]
        assert [usage["total_tokens"] for usage in told] == [3, 4, 5, 5]

    drive(scenario)


def test_a_chunk_comes_with_each_step_while_others_run() -> None:
    async def scenario(bench: Bench) -> None:
        bench.submit(text(1), max_tokens=2000)
        bench.exchange(2, COMPLETIONS, {"prompt": ["a", "b"], "max_tokens": 30, "stream": True})
        await bench.until(lambda: 2 in bench.chunks)
        assert 2 not in bench.results, "it comes while it is made"
        assert bench.engine.load.running == 3
        await bench.results_of(2)
        chunks = bench.chunks[2]
        assert len(chunks) == 30
        assert all(chunk.body.count(b"data: ") == 2 for chunk in chunks[:-1])
        assert chunks[0].head == AnswerHead(200, "text/event-stream; charset=utf-8")
        assert all(chunk.head is None for chunk in chunks[1:])
        bench.engine.abort([1])

    drive(scenario, step_ms=1)


def test_without_step_times_a_stream_comes_in_chunks_and_holds_nobody_up() -> None:
    async def scenario(bench: Bench) -> None:
        bench.exchange(1, COMPLETIONS, {"prompt": "Hi", "max_tokens": 500, "stream": True})
        bench.submit(*(text(attempt) for attempt in range(10, 20)), max_tokens=1000)
        await bench.results_of(*range(10, 20))
        assert 1 not in bench.results
        await bench.results_of(1)
        assert len(bench.chunks[1]) == 500

    drive(scenario)


# ---------------------------------------------------------------- the window


@pytest.mark.parametrize("step_ms", [0, 0.01])
def test_no_more_is_sent_than_the_window_allows_until_it_is_taken(step_ms: float) -> None:
    async def scenario(bench: Bench) -> None:
        bench.exchange(1, COMPLETIONS, LONG)
        await bench.until(lambda: bench.engine.load.completion_tokens == 8000)
        sent = len(bench.streamed_bytes(1))
        assert STREAM_WINDOW_BYTES - 1000 < sent <= STREAM_WINDOW_BYTES
        assert (bench.engine.load.running, bench.results) == (0, {}), "its tokens are made, and it is not at its end"
        taken = 0
        while 1 not in bench.results:
            bench.engine.taken([(99, 1000), (1, 100_000)])
            taken += 100_000
            assert len(bench.streamed_bytes(1)) - taken <= STREAM_WINDOW_BYTES
            assert len(bench.chunks[1][-1].body) <= 100_000 + 1000
        bench.engine.taken([(1, 1000)])
        assert len(texts_of(bench.streamed(1))[0]) == 4 * 8000

    drive(scenario, step_ms=step_ms)


def test_a_stream_that_is_taken_as_it_comes_never_waits() -> None:
    async def scenario(bench: Bench) -> None:
        bench.exchange(1, COMPLETIONS, LONG)
        told = 0
        while 1 not in bench.results:
            await asyncio.sleep(0)
            size = sum(len(chunk.body) for chunk in bench.chunks.get(1, [])[told:])
            told = len(bench.chunks.get(1, []))
            bench.engine.taken([(1, size)])
        assert len(bench.chunks[1]) == 8000

    drive(scenario)


# ---------------------------------------------------------------- other ends


@pytest.mark.parametrize("is_made", [False, True])
def test_an_aborted_stream_ends_once_and_what_was_not_sent_is_dropped(is_made: bool) -> None:
    async def scenario(bench: Bench) -> None:
        load = bench.engine.load
        bench.exchange(1, COMPLETIONS, LONG)
        await bench.until(lambda: load.completion_tokens == 8000 if is_made else 1 in bench.chunks)
        bench.engine.abort([1])
        assert bench.results[1].outcome is Outcome.ABORTED
        bench.engine.taken([(1, 10_000_000)])
        assert (load.running, load.waiting, load.given) == (0, 0, 0)
        assert (await bench.ask(text(2), max_tokens=2)).outcome is Outcome.OK

    drive(scenario, step_ms=0 if is_made else 1)


def test_faults_and_the_prompts_file_are_for_exchanges_too(tmp_path: Path) -> None:
    record = tmp_path / "prompts"

    async def scenario(bench: Bench) -> None:
        await bench.answer(1, COMPLETIONS, b'{\n"prompt": "Hi"\n}')
        bench.exchange(2, CHAT, {"messages": [{"role": "user", "content": "a bone"}], "stream": True})
        await bench.until(lambda: bool(bench.deaths))
        assert (sorted(bench.results), bench.chunks) == ([1], {})

    drive(scenario, choke_on="bone", prompts_file=str(record))
    first, second = record.read_text().splitlines()
    assert first == '{ "prompt": "Hi" }'
    assert "a bone" in second


def test_a_crash_in_the_midst_of_a_stream_comes_after_three_of_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(SystemExit):  # what asyncio lets through a callback
        pass

    def kill(*_: int) -> None:
        raise Killed

    monkeypatch.setattr(os, "kill", kill)
    chunks: dict[int, list[Chunk]] = {}
    results: dict[int, Result] = {}

    async def scenario(bench: Bench) -> None:
        bench.chunks, bench.results = chunks, results
        await bench.answer(1, COMPLETIONS, {"prompt": "fragile"})
        bench.exchange(2, COMPLETIONS, {"prompt": "Hi", "max_tokens": 4, "stream": True})
        await bench.results_of(2)
        bench.exchange(3, COMPLETIONS, {"prompt": "fragile", "max_tokens": 40, "stream": True})
        await asyncio.sleep(DEADLINE_S)

    with pytest.raises(Killed):
        drive(scenario, crash_midstream_on="fragile")
    assert sorted(results) == [1, 2]
    assert len(chunks[3]) == 3
