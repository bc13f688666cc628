"""What the simulated engine answers, and what it refuses."""

from typing import Any

import msgspec
import pytest
from simulated_bench import Bench, chat, drive, ids, outputs, text

from engines.contract.item_errors import ItemErrorCode
from engines.contract.protocol import Outcome, PromptKind, RunItem

# ---------------------------------------------------------------- answers


def test_an_answer_says_that_it_is_simulated() -> None:
    async def scenario(bench: Bench) -> None:
        result = await bench.ask(text(1), max_tokens=5)
        (output,) = outputs(result)
        assert output["simulated"] is True
        assert output | {"text": ""} == {
            "index": 0,
            "text": "",
            "finish_reason": "length",
            "stop_reason": None,
            "simulated": True,
        }
        assert len(output["text"]) == 20
        assert (result.prompt_tokens, result.completion_tokens, result.stopped_by_length) == (4, 5, 1)

    drive(scenario)


def test_equal_items_have_equal_answers_and_others_have_others() -> None:
    async def scenario(bench: Bench) -> None:
        items = [text(1), text(2), text(3, "Hello"), text(4, seed=7), text(5, seed=8)]
        bench.submit(*items, max_tokens=8)
        first, again, *others = [outputs(result)[0]["text"] for result in await bench.results_of(1, 2, 3, 4, 5)]
        assert first == again
        assert len({first, *others}) == 4
        assert outputs(await bench.ask(text(6), max_tokens=8, temperature=0.5))[0]["text"] != first

    drive(scenario)


def test_n_gives_as_many_different_sequences() -> None:
    async def scenario(bench: Bench) -> None:
        result = await bench.ask(text(1, return_token_ids=True), n=3, max_tokens=4)
        found = outputs(result)
        assert [output["index"] for output in found] == [0, 1, 2]
        assert len({output["text"] for output in found}) == 3
        assert all(len(output["token_ids"]) == 4 for output in found)
        assert (result.completion_tokens, result.stopped_by_length) == (12, 3)

    drive(scenario)


def test_unset_max_tokens_is_sixteen() -> None:
    async def scenario(bench: Bench) -> None:
        assert (await bench.ask(text(1))).completion_tokens == 16

    drive(scenario)


def test_a_stop_string_ends_the_text_before_it() -> None:
    async def scenario(bench: Bench) -> None:
        whole = outputs(await bench.ask(text(1), max_tokens=12, stop=["\n"]))[0]
        assert whole["finish_reason"] == "length"
        # The answer depends on its parameters, so every stop is sought in an answer of its own.
        for attempt, vowel in enumerate("aeiu", 2):
            result = await bench.ask(text(attempt), max_tokens=400, stop=vowel)
            (output,) = outputs(result)
            assert (output["finish_reason"], output["stop_reason"]) == ("stop", vowel)
            assert vowel not in output["text"]
            assert result.completion_tokens == len(output["text"]) // 4 + 1
            assert result.stopped_by_length == 0
        kept = outputs(await bench.ask(text(9), max_tokens=400, stop=["a"], include_stop_str_in_output=True))[0]
        assert kept["text"].endswith("a") and kept["text"].count("a") == 1

    drive(scenario)


def test_min_tokens_holds_stops_back() -> None:
    async def scenario(bench: Bench) -> None:
        result = await bench.ask(text(1), max_tokens=400, min_tokens=100, stop=["a", "e"])
        assert 100 < result.completion_tokens < 400

    drive(scenario)


def test_a_stop_token_ends_the_answer_with_it() -> None:
    async def scenario(bench: Bench) -> None:
        result = await bench.ask(text(1, return_token_ids=True), max_tokens=4000, stop_token_ids=[42, 300])
        (output,) = outputs(result)
        assert (output["finish_reason"], output["stop_reason"]) == ("stop", 42)
        assert output["token_ids"].index(42) == len(output["token_ids"]) - 1
        assert len(output["text"]) == 4 * (len(output["token_ids"]) - 1)

    drive(scenario)


def test_prompts_are_counted_by_their_kind() -> None:
    async def scenario(bench: Bench) -> None:
        messages = [
            {"role": "user", "content": "12345678"},
            {"role": "user", "content": [{"type": "text", "text": "1"}]},
        ]
        cases = [
            (text(1, "a"), 1),
            (text(2, "x" * 40), 10),
            (text(3, "ü" * 40), 20),
            (ids(4, [1, 2, 3]), 3),
            (chat(5, messages), 1 + 2 + 1 + 1),
            (text(6, "x" * 400, truncate=7), 7),
            (text(7, "x" * 800, truncate=-1), 99),
        ]
        bench.submit(*(item for item, _ in cases), max_tokens=1)
        for item, tokens in cases:
            (result,) = await bench.results_of(item.attempt)
            assert (result.outcome, result.prompt_tokens) == (Outcome.OK, tokens)

    drive(scenario, max_model_len=100)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "item",
    [
        text(1, ""),
        ids(1, []),
        ids(1, ["1"]),
        ids(1, [-1]),
        ids(1, [70_000]),
        ids(1, "text"),
        RunItem(1, PromptKind.TEXT, b"[1]", 0),
        RunItem(1, PromptKind.TEXT, b"{", 0),
        RunItem(1, PromptKind.TEXT, b'"\xff"', 0),
        RunItem(1, PromptKind.CHAT, b'[{"role":' + b"[" * 5000 + b"]" * 5000 + b"}]", 0),
        chat(1, []),
        chat(1, [{"content": "no role"}]),
        chat(1, [{"role": "user", "content": 5}]),
        chat(1, [{"role": "user", "content": "Hi"}], tools=b'"none"'),
        text(1, truncate=0),
    ],
)
def test_a_malformed_prompt_is_refused_alone(item: RunItem) -> None:
    async def scenario(bench: Bench) -> None:
        bench.submit(item, text(2))
        bad, good = await bench.results_of(1, 2)
        assert bad.outcome is Outcome.ERROR and bad.error is not None
        assert bad.error.code is ItemErrorCode.INVALID_PROMPT
        assert good.outcome is Outcome.OK

    drive(scenario)


def test_a_prompt_that_fills_the_context_is_refused_and_an_answer_is_cut_to_fit() -> None:
    async def scenario(bench: Bench) -> None:
        bench.submit(text(1, "x" * 400), text(2, "x" * 380), max_tokens=50)
        long, fitting = await bench.results_of(1, 2)
        assert long.error is not None and long.error.code is ItemErrorCode.CONTEXT_LENGTH_EXCEEDED
        assert "100 tokens and the context holds 100" in long.error.message
        assert (fitting.prompt_tokens, fitting.completion_tokens) == (95, 5)

    drive(scenario, max_model_len=100)


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"temperature": float("nan")}, None),
        ({"top_p": 0.0}, None),
        ({"stop": ["a", ""]}, "stop"),
        ({"min_tokens": 9, "max_tokens": 3}, "min_tokens"),
        ({"logprobs": 1}, "logprobs"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"max_tokens": "5"}, None),
        ({"no_such_field": 5}, None),
    ],
)
def test_parameters_that_it_cannot_honour_are_refused(params: dict[str, Any], param: str | None) -> None:
    async def scenario(bench: Bench) -> None:
        expected = "sampling_params" if param is None else f"sampling_params.{param}"
        checked = await bench.engine.check(msgspec.msgpack.encode(params))
        assert checked is not None
        assert (checked.code, checked.param) == (ItemErrorCode.INVALID_SAMPLING_PARAMS, expected)
        assert (await bench.ask(text(1), **params)).error == checked
        assert await bench.engine.check(msgspec.msgpack.encode({"temperature": 0.8, "top_p": 0.95, "top_k": 5})) is None

    drive(scenario)
