"""Bodies made to hurt: each runs or gets a clear error, the loop is never held for long, and a batch runs then."""

import json
import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests import raw_client
from tests.service import BATCH, Json, Service, serving

MIB = 1024 * 1024
GOOD = b'"prompts":["a"]'


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving() as service:
        yield service


@pytest.fixture(autouse=True)
def unharmed(service: Service) -> Iterator[None]:
    """After each attack."""
    with raw_client.unharmed(service):
        yield


def post(service: Service, body: bytes) -> httpx.Response:
    return service.client.post(BATCH, content=body, headers={"Content-Type": "application/json"})


def refusal(service: Service, body: bytes, status: int = 400) -> Json:
    """The error of a body that is refused as a whole."""
    answer = post(service, body)
    assert answer.status_code == status, answer.text[:500]
    assert len(answer.content) < 2000
    error: Json = answer.json()["error"]
    return error


def item_error(service: Service, prompt: bytes) -> Json:
    """The error of one prompt, whose neighbours run."""
    answer = post(service, b'{"prompts":["before",' + prompt + b',"after"]}')
    assert answer.status_code == 200, answer.text[:500]
    before, result, after = answer.json()["results"]
    assert (before["status"], result["status"], after["status"]) == ("ok", "error", "ok")
    assert len(json.dumps(result)) < 2000
    error: Json = result["error"]
    return error


# ---------------------------------------------------------------- far too much of something


@pytest.mark.parametrize("entry", [b"1", b'""', b"[]", b"{}", b"null"])
def test_millions_of_prompts_are_refused_without_making_a_list_of_them(service: Service, entry: bytes) -> None:
    body = b'{"prompts":[' + (entry + b",") * (16 * MIB // (len(entry) + 1)) + entry + b"]}"
    error = refusal(service, body, 413)
    assert (error["code"], error["param"]) == ("batch_too_large", "prompts")
    assert "100000" in error["message"] and "--max-batch-items" in error["message"]


def test_the_largest_body_is_read(service: Service) -> None:
    """128 MiB, 99,000 prompts that escape every character; too long for the engine, each says so."""
    body = b'{"prompts":[' + (b'"' + b"\\n" * 670 + b'",') * 99_000 + b'"a"]}'
    assert 0.95 * 128 * MIB < len(body) < 128 * MIB
    answer = post(service, body)
    assert answer.status_code == 200
    assert answer.json()["request_counts"]["ok"] == 99_001


def test_a_prompt_larger_than_accepted_is_refused_alone(service: Service) -> None:
    error = item_error(service, b'"' + b"x" * (4 * MIB) + b'"')
    assert error["code"] == "invalid_prompt"
    assert "--max-prompt-bytes" in error["message"]


def test_a_prompt_of_a_whole_body_is_refused(service: Service) -> None:
    error = refusal(service, b'{"prompts":["a","' + b"x" * (64 * MIB) + b'"]}')
    assert error["param"] == "prompts[1]" and "--max-prompt-bytes" in error["message"]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        (b'{"stop":[' + b'"x",' * 1_000_000 + b'"x"]}', "sampling_params"),
        (b'{"stop":[' + b'"x",' * 100_000 + b'"x"]}', "sampling_params.stop"),
        (b'{"bad_words":[' + b'"x",' * 100_000 + b'"x"]}', "sampling_params.bad_words"),
        (b'{"stop_token_ids":[' + b"1," * 100_000 + b"1]}", "sampling_params.stop_token_ids"),
        (b'{"logit_bias":{' + b",".join(b'"%d":1' % n for n in range(50_000)) + b"}}", "sampling_params.logit_bias"),
        (b'{"stop":"' + b"x" * 100_000 + b'"}', "sampling_params.stop"),
        (b'{"' + b"x" * 900_000 + b'":1}', "sampling_params.xxx"),
        (b'{"temperature":"' + b"x" * 900_000 + b'"}', "sampling_params.temperature"),
        (b'{"temperature":[' + b"1," * 300_000 + b"1]}", "sampling_params.temperature"),
        (b'{"structured_outputs":{"regex":"' + b"x" * 100_000 + b'"}}', "sampling_params.structured_outputs.regex"),
        (
            b'{"structured_outputs":{"json":' + b'{"a":' * 70 + b"1" + b"}" * 70 + b"}}",
            "sampling_params.structured_outputs.json",
        ),
    ],
)
def test_sampling_parameters_of_any_size_are_refused_by_name(service: Service, fields: bytes, name: str) -> None:
    error = refusal(service, b"{" + GOOD + b',"sampling_params":' + fields + b"}")
    assert error["code"] == "invalid_sampling_params"
    assert error["param"].startswith(name)
    error = item_error(service, b'{"prompt":"a","sampling_params":' + fields + b"}")
    assert error["code"] == "invalid_sampling_params"
    assert error["param"].startswith(f"prompts[1].{name}")


def test_large_parameters_of_the_batch_are_not_multiplied_by_its_items(service: Service) -> None:
    bias = b'{"stop":[' + b",".join(b'"%04d%s"' % (n, b"x" * 4000) for n in range(64)) + b"]}"
    equal = b",".join(b'{"prompt":"a","sampling_params":{"seed":%d,"max_tokens":1}}' % n for n in range(5000))
    answer = post(service, b'{"prompts":[' + equal + b'],"sampling_params":' + bias + b"}")
    assert answer.json()["request_counts"]["ok"] == 5000
    different = b",".join(b'{"prompt":"a","sampling_params":{"max_tokens":%d}}' % n for n in range(1, 5000))
    error = refusal(service, b'{"prompts":[' + different + b'],"sampling_params":' + bias + b"}", 413)
    assert error["param"] == "sampling_params" and "let more prompts have equal ones" in error["message"]


# ---------------------------------------------------------------- nesting


@pytest.mark.parametrize("depth", [1_000, 100_000, 4 * MIB])
@pytest.mark.parametrize(
    "around",
    [
        (b'{"prompts":[', b"]}"),
        (b"{" + GOOD + b',"sampling_params":', b"}"),
        (b"{" + GOOD + b',"model":', b"}"),
        (b'{"prompts":[{"messages":', b"}]}"),
        (b'{"prompts":[{"prompt":"a","metadata":', b"}]}"),
    ],
)
def test_deep_nesting_is_refused(service: Service, depth: int, around: tuple[bytes, bytes]) -> None:
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        error = refusal(service, around[0] + opening * depth + b"1" + closing * depth + around[1])
        assert "nested" in error["message"] or "expected" in error["message"]


def test_nesting_that_is_never_closed_is_refused(service: Service) -> None:
    for opening in (b"[", b'{"a":', b'"', b'["', b'{"'):
        body = b'{"prompts":[' + opening * 1_000_000
        assert "nested" in refusal(service, body)["message"] or "JSON" in refusal(service, body)["message"]


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    "number", [b"NaN", b"Infinity", b"-Infinity", b"nan", b"+1", b"01", b"1.", b".5", b"1x", b"1_0"]
)
@pytest.mark.parametrize("place", [b'"timeout_s":', b'"priority":', b'"sampling_params":{"temperature":'])
def test_what_json_has_no_word_for_is_refused(service: Service, number: bytes, place: bytes) -> None:
    closing = b"}" if b"{" in place else b""
    assert "JSON" in refusal(service, b"{" + GOOD + b"," + place + number + closing + b" }")["message"]


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"1" + b"0" * 400 + b".0"])
def test_numbers_beyond_every_range_are_refused(service: Service, number: bytes) -> None:
    for place in (b'"timeout_s":', b'"sampling_params":{"temperature":', b'"sampling_params":{"logit_bias":{"1":'):
        error = refusal(service, b"{" + GOOD + b"," + place + number + b"}" * place.count(b"{") + b"}")
        assert error["message"]


@pytest.mark.parametrize("digits", [20, 5_000, 500_000, 10_000_000])
def test_gigantic_integers_are_refused(service: Service, digits: int) -> None:
    number = b"9" * digits
    for place in (
        b'"priority":',
        b'"timeout_s":-',
        b'"model":',
        b'"sampling_params":{"seed":',
        b'"sampling_params":{"n":',
    ):
        error = refusal(service, b"{" + GOOD + b"," + place + number + b"}" * place.count(b"{") + b"}")
        assert error["message"]
    if digits <= MIB:
        for prompt in (number, b"[" + number + b"]", b'{"prompt":"a","truncate_prompt_tokens":' + number + b"}"):
            assert item_error(service, prompt)["code"] == "invalid_prompt"


# ---------------------------------------------------------------- text


@pytest.mark.parametrize("bad", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82", b"\x80"])
def test_invalid_utf8_is_refused_wherever_it_stands(service: Service, bad: bytes) -> None:
    for body in (
        b"{" + GOOD + b',"model":"' + bad + b'"}',
        b"{" + GOOD + b',"' + bad + b'":1}',
        b"{" + GOOD + b',"sampling_params":{"stop":"' + bad + b'"}}',
        b"{" + GOOD + b',"sampling_params":{"' + bad + b'":1}}',
    ):
        assert "UTF-8" in refusal(service, body)["message"]
    for prompt in (
        b'"' + bad + b'"',
        b'{"prompt":"' + bad + b'"}',
        b'{"prompt":"a","custom_id":"' + bad + b'"}',
        b'{"prompt":"a","metadata":"' + bad + b'"}',
        b'{"messages":[{"role":"user","content":"' + bad + b'"}]}',
        b'{"prompt":"a","sampling_params":{"stop":"' + bad + b'"}}',
    ):
        assert "UTF-8" in item_error(service, prompt)["message"]


@pytest.mark.parametrize("lone", ["\\ud800", "\\udfff", "\\ud800\\u0041", "x\\udc00\\ud800"])
def test_half_a_surrogate_pair_is_refused_where_it_stands(service: Service, lone: str) -> None:
    answer = post(service, f'{{"prompts":["a","{lone}",{{"prompt":"b","custom_id":"whole"}}]}}'.encode()).json()
    assert [result["status"] for result in answer["results"]] == ["ok", "error", "ok"]
    error = answer["results"][1]["error"]
    assert (error["code"], error["param"]) == ("invalid_prompt", "prompts[1]")
    assert "half a character" in error["message"]
    refused = refusal(service, f'{{"prompts":["a"],"sampling_params":{{"stop":"{lone}"}}}}'.encode())
    assert "half a character" in refused["message"]


def test_a_whole_surrogate_pair_and_a_nul_are_text(service: Service) -> None:
    answer = post(service, rb'{"prompts":["\ud83d\ude00","\u0000",{"prompt":"a","metadata":"\ud83d\ude00\u0000"}]}')
    assert answer.json()["request_counts"]["ok"] == 3
    assert answer.json()["results"][2]["metadata"] == "\U0001f600\0"


@pytest.mark.parametrize("body", [b"\xef\xbb\xbf{" + GOOD + b"}", json.dumps({"prompts": ["a"]}).encode("utf-16")])
def test_other_encodings_are_refused(service: Service, body: bytes) -> None:
    assert refusal(service, body)["code"] == "invalid_request"


# ---------------------------------------------------------------- twice, and nothing


def test_of_two_equal_keys_the_last_counts_as_json_parsers_have_it(service: Service) -> None:
    answer = post(service, b'{"prompts":["a","b"],"priority":1,"prompts":["c"],"priority":2}')
    assert answer.json()["request_counts"]["ok"] == 1
    answer = post(service, b'{"prompts":[{"prompt":"a","prompt":"b","custom_id":"x","custom_id":"y"}]}')
    assert answer.json()["results"][0]["custom_id"] == "y"


def test_a_hundred_thousand_equal_custom_ids_run_once(service: Service) -> None:
    body = b'{"prompts":[' + b'{"prompt":"a","custom_id":"x"},' * 99_999 + b'"last"]}'
    answer = post(service, body).json()
    assert answer["request_counts"] == {"total": 100_000, "ok": 2, "error": 99_998, "cancelled": 0, "timeout": 0}
    assert answer["results"][5]["error"]["code"] == "duplicate_custom_id"


@pytest.mark.parametrize(
    "prompt",
    [b'""', b"[]", b'{"prompt":""}', b'{"prompt":[]}', b'{"messages":[]}', b"{}", b'{"prompt":null}', b"null", b"true"],
)
def test_prompts_of_nothing_are_refused_alone(service: Service, prompt: bytes) -> None:
    assert item_error(service, prompt)["code"] == "invalid_prompt"


@pytest.mark.parametrize(
    "body", [b"null", b"true", b"1", b'""', b"{}", b"[]", b" ", b'{"prompts":[ ]}', b"\x00" * 1000]
)
def test_bodies_of_nothing_are_refused(service: Service, body: bytes) -> None:
    assert refusal(service, body)["type"] == "invalid_request_error"


# ---------------------------------------------------------------- anything


def test_bodies_that_were_damaged_anywhere_never_hurt(service: Service) -> None:
    """Bytes of a good body are dropped, doubled, swapped or made up, from one seed."""
    chance = random.Random(7)
    whole: Any = {
        "prompts": ["é", [1, 2], {"prompt": "a", "sampling_params": {"stop": ["x"]}, "metadata": {"a": [1.5, None]}}],
        "sampling_params": {"max_tokens": 2, "logit_bias": {}, "seed": 3},
        "timeout_s": 5,
    }
    good = json.dumps(whole, ensure_ascii=False).encode()
    for _ in range(600):
        body = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(body))
            body[place : place + chance.randint(0, 3)] = bytes(
                chance.randrange(256) for _ in range(chance.randint(0, 3))
            )
        answer = post(service, bytes(body))
        assert answer.status_code in (200, 400, 404), (bytes(body), answer.text)
        answer.json()
