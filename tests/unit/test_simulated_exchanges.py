"""What the simulated engine answers in OpenAI's API, whole, and what it refuses."""

import base64
import re
import struct
import time
from typing import Any

import pytest
from simulated_bench import Bench, drive, text

from engines.contract.exchanges import Exchange
from engines.contract.protocol import Outcome

COMPLETIONS, CHAT = Exchange.COMPLETIONS, Exchange.CHAT_COMPLETIONS
HI = [{"role": "user", "content": "12345678"}]


# ---------------------------------------------------------------- texts


def test_a_completion_has_the_shape_of_openais_api() -> None:
    async def scenario(bench: Bench) -> None:
        body = await bench.answer(7, COMPLETIONS, {"model": "mine", "prompt": "Hello, my name is"})
        (choice,) = body.pop("choices")
        assert time.time() - body.pop("created") < 60
        assert body == {
            "id": "cmpl-7",
            "object": "text_completion",
            "model": "mine",
            "usage": {"prompt_tokens": 4, "completion_tokens": 16, "total_tokens": 20},
            "simulated": True,
        }
        assert len(choice.pop("text")) == 16 * 4
        assert choice == {"index": 0, "logprobs": None, "finish_reason": "length", "stop_reason": None}
        result = bench.results[7]
        assert (result.prompt_tokens, result.completion_tokens, result.stopped_by_length) == (4, 16, 1)

    drive(scenario)


def test_a_chat_completion_has_the_shape_of_openais_api() -> None:
    async def scenario(bench: Bench) -> None:
        body = await bench.answer(7, CHAT, {"messages": HI, "max_completion_tokens": 5, "max_tokens": 900})
        (choice,) = body["choices"]
        assert (body["id"], body["object"], body["model"]) == ("chatcmpl-7", "chat.completion", "simulated")
        assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
        assert choice["message"]["role"] == "assistant"
        assert len(choice["message"]["content"]) == 5 * 4

    drive(scenario)


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        ("x" * 40, 10),
        (["x" * 40, "y" * 8], 12),
        ([1, 2, 3], 3),
        ([[1, 2, 3], [4, 5]], 5),
    ],
)
def test_prompts_come_as_texts_or_token_ids_one_or_several(prompt: Any, tokens: int) -> None:
    async def scenario(bench: Bench) -> None:
        several = isinstance(prompt[0], list) or (isinstance(prompt, list) and isinstance(prompt[0], str))
        body = await bench.answer(1, COMPLETIONS, {"prompt": prompt, "max_tokens": 3, "n": 2})
        assert [choice["index"] for choice in body["choices"]] == list(range(4 if several else 2))
        assert len({choice["text"] for choice in body["choices"]}) == len(body["choices"])
        assert body["usage"]["prompt_tokens"] == tokens
        assert body["usage"]["completion_tokens"] == 3 * len(body["choices"])
        # A prompt among several is answered as it is alone.
        alone = await bench.answer(2, COMPLETIONS, {"prompt": prompt[-1:], "max_tokens": 3, "n": 2})
        if several:
            assert [one["text"] for one in alone["choices"]] == [one["text"] for one in body["choices"][2:]]

    drive(scenario)


def test_equal_bodies_have_equal_texts_and_others_have_others() -> None:
    async def scenario(bench: Bench) -> None:
        bodies: list[dict[str, Any]] = [
            {"prompt": "Hi", "seed": 1},
            {"prompt": "Hi", "seed": 1, "user": None, "stop": None},
            {"prompt": "Hi", "seed": 2},
            {"prompt": "Ho", "seed": 1},
        ]
        answers = [await bench.answer(number, COMPLETIONS, body) for number, body in enumerate(bodies)]
        first, again, *others = [answer["choices"][0]["text"] for answer in answers]
        assert first == again
        assert len({first, *others}) == 3

    drive(scenario)


def test_a_stop_ends_each_text_before_it() -> None:
    async def scenario(bench: Bench) -> None:
        for number, vowel in enumerate("aeiu"):
            body = await bench.answer(number, CHAT, {"messages": HI, "max_tokens": 400, "stop": [vowel], "n": 2})
            for choice in body["choices"]:
                assert vowel not in choice["message"]["content"]
                assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", vowel)
            lengths = [len(choice["message"]["content"]) // 4 + 1 for choice in body["choices"]]
            assert body["usage"]["completion_tokens"] == sum(lengths)
            assert bench.results[number].stopped_by_length == 0

    drive(scenario)


def test_an_exchange_takes_its_sequences_and_its_steps() -> None:
    async def scenario(bench: Bench) -> None:
        load = bench.engine.load
        bench.exchange(1, COMPLETIONS, {"prompt": ["12345678", "1234"], "n": 2, "max_tokens": 20})
        bench.exchange(2, Exchange.EMBEDDINGS, {"input": ["a", "b", "c"]})
        assert (load.running, load.waiting) == (4, 3), "three more than six have to wait"
        assert load.kv_cache_usage == (4 * 20 + 2 * (2 + 1)) / 1000
        await bench.results_of(1, 2)
        assert load.steps == 20 + 1
        assert (load.prompt_tokens, load.completion_tokens) == (3 + 3, 80)

    drive(scenario, max_num_seqs=6, step_ms=1, kv_cache_tokens=1000)


# ---------------------------------------------------------------- what needs no text


def test_embeddings_are_unit_vectors_of_their_inputs() -> None:
    async def scenario(bench: Bench) -> None:
        body = await bench.answer(1, Exchange.EMBEDDINGS, {"input": ["12345678", "b", "12345678"]})
        assert (body["id"], body["object"], body["simulated"]) == ("embd-1", "list", True)
        assert body["usage"] == {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}
        first, other, again = [entry["embedding"] for entry in body["data"]]
        assert first == again != other
        assert len(first) == 8 and abs(sum(number * number for number in first) - 1) < 1e-9
        packed = await bench.answer(2, Exchange.EMBEDDINGS, {"input": "12345678", "encoding_format": "base64"})
        unpacked = struct.unpack("<8f", base64.b64decode(packed["data"][0]["embedding"]))
        assert unpacked == pytest.approx(first)

    drive(scenario)


def test_tokens_are_counted_as_prompts_are_and_come_back_as_the_text_that_they_were_made_for() -> None:
    async def scenario(bench: Bench) -> None:
        made = await bench.answer(1, COMPLETIONS, {"prompt": "Hi", "max_tokens": 30})
        (choice,) = made["choices"]
        tokens = await bench.answer(2, Exchange.TOKENIZE, {"prompt": choice["text"], "return_token_strs": True})
        assert (tokens["count"], tokens["max_model_len"]) == (30, 8192)
        assert "".join(tokens["token_strs"]) == choice["text"]
        back = await bench.answer(3, Exchange.DETOKENIZE, {"tokens": tokens["tokens"]})
        assert back["prompt"] == choice["text"]
        for number, prompt in enumerate(("", "a", "seventy", "eleven years", "ü" * 11), 10):
            tokens = await bench.answer(number, Exchange.TOKENIZE, {"prompt": prompt})
            assert tokens["token_strs"] is None
            assert len(tokens["tokens"]) == tokens["count"]
            if prompt:
                usage = (await bench.answer(number + 10, COMPLETIONS, {"prompt": prompt}))["usage"]
                assert usage["prompt_tokens"] == tokens["count"]
        chat = await bench.answer(30, Exchange.TOKENIZE, {"messages": HI})
        assert chat["count"] == (await bench.answer(31, CHAT, {"messages": HI}))["usage"]["prompt_tokens"]

    drive(scenario)


def test_what_needs_no_sequence_is_answered_while_the_engine_is_full_or_hangs() -> None:
    async def scenario(bench: Bench) -> None:
        bench.submit(text(1, "hang"), max_tokens=1000)
        bench.exchange(2, Exchange.TOKENIZE, {"prompt": "Hello"})
        bench.exchange(3, Exchange.DETOKENIZE, {"tokens": [1]})
        bench.exchange(4, COMPLETIONS, {"prompt": 5})
        assert sorted(bench.results) == [2, 3, 4], "at once"
        bench.engine.abort([1])

    drive(scenario, max_num_seqs=1, hang_on="hang", step_ms=1)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (COMPLETIONS, b"{", "malformed"),
        (COMPLETIONS, b"[1]", "malformed"),
        (COMPLETIONS, b'{"prompt": "\xff"}', "malformed"),
        (COMPLETIONS, b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}", "malformed"),
        (COMPLETIONS, {}, "prompt"),
        (COMPLETIONS, {"prompt": None}, "prompt"),
        (COMPLETIONS, {"prompt": ""}, "no tokens"),
        (COMPLETIONS, {"prompt": []}, "prompt may be a text"),
        (COMPLETIONS, {"prompt": [1, "a"]}, "prompt may be a text"),
        (COMPLETIONS, {"prompt": [[1], []]}, "no tokens"),
        (COMPLETIONS, {"prompt": [70_000]}, "token id 70000"),
        (COMPLETIONS, {"prompt": "x" * 400}, "100 tokens and the context holds 100"),
        (COMPLETIONS, {"prompt": "Hi", "max_tokens": "5"}, r"\$.max_tokens"),
        (COMPLETIONS, {"prompt": "Hi", "top_p": 3}, r"\$.top_p"),
        (COMPLETIONS, b'{"prompt": "Hi", "seed": 100000000000000000000000}', "seed"),
        (COMPLETIONS, {"prompt": ["Hi", "Ho"], "n": 513}, "n is 513, of 2 prompts"),
        (COMPLETIONS, {"prompt": "Hi", "stop": ["a", ""]}, "stop"),
        (COMPLETIONS, {"prompt": "Hi", "stream": "yes"}, "stream"),
        (COMPLETIONS, {"prompt": "Hi", "stream_options": {"include_usage": True}}, "stream_options"),
        (COMPLETIONS, {"prompt": "Hi", "logprobs": 0}, "'logprobs'"),
        (COMPLETIONS, {"prompt": "Hi", "echo": True}, "'echo'"),
        (COMPLETIONS, {"prompt": "Hi", "logprobs": 1, "stream": True}, "'logprobs'"),
        (CHAT, {"messages": []}, "no tokens"),
        (CHAT, {"messages": [{"content": "no role"}]}, "role"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, "text"),
        (CHAT, {"messages": HI, "logprobs": True}, "'logprobs'"),
        (CHAT, {"messages": HI, "tools": [{"type": "function"}]}, "'tools'"),
        (CHAT, {"messages": HI, "response_format": {"type": "json_object"}}, "'response_format'"),
        (Exchange.EMBEDDINGS, {"input": "a", "dimensions": 4}, "'dimensions'"),
        (Exchange.EMBEDDINGS, {"input": "a", "encoding_format": "int8"}, "encoding_format"),
        (Exchange.EMBEDDINGS, {"input": ["a"] * 1025}, "1025 inputs"),
        (Exchange.TOKENIZE, {}, "'prompt' or 'messages'"),
        (Exchange.DETOKENIZE, {"tokens": [70_000]}, "token id 70000"),
    ],
)
def test_what_it_cannot_honour_is_refused_by_name(path: Exchange, body: Any, message: str) -> None:
    async def scenario(bench: Bench) -> None:
        answer = await bench.answer(1, path, body, status=400)
        error = answer["error"]
        assert re.search(message, error.pop("message"))
        assert error == {"type": "BadRequestError", "param": None, "code": None}
        assert (await bench.ask(text(2))).outcome is Outcome.OK

    drive(scenario, max_model_len=100)


def test_fields_that_ask_for_nothing_are_no_reason_to_refuse() -> None:
    async def scenario(bench: Bench) -> None:
        asked = {"logprobs": False, "tools": None, "response_format": {"type": "text"}, "logit_bias": {}, "user": "me"}
        plain = await bench.answer(1, CHAT, {"messages": HI})
        assert (await bench.answer(2, CHAT, {"messages": HI} | asked))["choices"] == plain["choices"]

    drive(scenario)


def test_paths_that_are_not_offered_are_not_found() -> None:
    async def scenario(bench: Bench) -> None:
        facts = await Bench().start()
        offered = {"/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/tokenize", "/detokenize"}
        assert set(facts.exchanges) == offered
        for number, path in enumerate(set(Exchange) - offered):
            answer = await bench.answer(number, Exchange(path), {"prompt": "Hi"}, status=404)
            assert path in answer["error"]["message"]

    drive(scenario)
