"""Requests in OpenAI's API as the gateway reads them: leniently, their lists split, their refusals put into words."""

from typing import Any

import msgspec
import pytest

from app.errors import InvalidRequest, RequestError, TooLarge
from app.exchanges.parts import Part, parts_of, prompts_of
from app.exchanges.poison import KEPT_S, MOST_KEPT, Convictions
from app.exchanges.refusals import refusal_of_answer, refusal_of_item
from app.exchanges.request import ExchangeRequest
from engines.contract.exchanges import Exchange
from engines.contract.item_errors import ItemError, ItemErrorCode

COMPLETIONS, CHAT, EMBEDDINGS = Exchange.COMPLETIONS, Exchange.CHAT_COMPLETIONS, Exchange.EMBEDDINGS
RESPONSES = Exchange.RESPONSES
Json = dict[str, Any]  # Any: JSON


def request(path: Exchange = COMPLETIONS, **fields: Any) -> ExchangeRequest:
    return ExchangeRequest(path, msgspec.json.encode(fields))


# ---------------------------------------------------------------- fields


def test_a_request_says_what_the_gateway_has_to_know() -> None:
    found = request(model="m", stream=True, priority=-3, n=2, max_tokens=7)
    assert (found.model, found.streams, found.priority, found.sequences) == ("m", True, -3, 2)
    assert found.max_tokens(100) == 7


@pytest.mark.parametrize("wrong", [5.5, [1], {"a": 1}, 2**70, None])
def test_what_is_not_understood_counts_as_missing_and_goes_on_as_it_came(wrong: object) -> None:
    fields = {"model": wrong, "stream": wrong, "max_tokens": wrong}
    found = request(CHAT, **fields)
    is_integer = isinstance(wrong, int)
    assert (found.model, found.streams) == (None, False)
    if not is_integer:
        assert found.max_tokens(100) == 100
    assert msgspec.json.decode(found.body) == fields


@pytest.mark.parametrize("body", [b"", b"[]", b'"x"', b"{", b'{"a":}', b'{"a":1}x', b"\xff"])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        ExchangeRequest(COMPLETIONS, body)


@pytest.mark.parametrize("true", [True, 1, "1", "true", "Yes", "on"])
def test_what_the_engine_takes_for_true_streams(true: object) -> None:
    assert request(CHAT, stream=true).streams


@pytest.mark.parametrize("other", [False, None, 0, "no", "", "x", [True], 2])
def test_anything_else_does_not(other: object) -> None:
    assert not request(CHAT, stream=other).streams


def test_half_a_character_is_named() -> None:
    with pytest.raises(InvalidRequest, match="the body has half a character"):
        request(prompt=msgspec.Raw(b'"a\\ud83d"'))
    with pytest.raises(InvalidRequest, match="not valid JSON"):
        ExchangeRequest(COMPLETIONS, b'{"prompt": "\\ud83d\\ude00"')


@pytest.mark.parametrize("wrong", [10**12, 2**70, 5.5, "5", [1], {}])
def test_a_priority_beyond_all_or_that_is_none_is_refused(wrong: object) -> None:
    """It is the gateway's own: nobody else would say that it means nothing."""
    with pytest.raises(InvalidRequest, match=r"priority is .* must be a whole number") as refused:
        _ = request(priority=wrong).priority
    assert refused.value.param == "priority"
    assert request(priority=None).priority is None


@pytest.mark.parametrize(
    ("fields", "status", "remedy"),
    [({"background": True}, 400, "use /v1/batches"), ({"previous_response_id": "resp_1"}, 404, "send what was said")],
)
def test_what_takes_a_stored_response_is_refused_with_a_remedy(fields: Json, status: int, remedy: str) -> None:
    with pytest.raises(RequestError, match=remedy) as refused:
        request(RESPONSES, input="Hi", **fields).check_state()
    assert (refused.value.status, refused.value.param) == (status, *fields)
    request(CHAT, **fields).check_state()  # there they are nothing
    request(RESPONSES, input="Hi", store=True, background=False, previous_response_id=None).check_state()


@pytest.mark.parametrize(
    ("path", "fields", "expected"),
    [
        (COMPLETIONS, {}, 16),
        (CHAT, {}, 100),
        (CHAT, {"max_tokens": 5, "max_completion_tokens": 6}, 6),
        (Exchange.RESPONSES, {"max_output_tokens": 8}, 8),
        (COMPLETIONS, {"max_tokens": 0}, 1),
        (COMPLETIONS, {"max_tokens": -5}, 1),
    ],
)
def test_tokens_are_those_of_its_api(path: Exchange, fields: dict[str, Any], expected: int) -> None:
    assert request(path, **fields).max_tokens(100) == expected


def test_what_cannot_stream_does_not() -> None:
    assert not request(EMBEDDINGS, stream=True).streams


@pytest.mark.parametrize(("fields", "expected"), [({"n": 3}, 3), ({"n": 2, "best_of": 5}, 5), ({"n": 0}, 1), ({}, 1)])
def test_sequences_are_what_it_may_come_to(fields: dict[str, Any], expected: int) -> None:
    assert request(**fields).sequences == expected


# ---------------------------------------------------------------- parts


def bodies(parts: list[Part]) -> list[dict[str, Any]]:
    return [msgspec.json.decode(part.body) for part in parts]


def test_each_prompt_of_a_list_is_an_exchange_of_its_own() -> None:
    for prompts in (["a", "b", "c"], [[1, 2], [3], [4]]):
        parts = parts_of(request(prompt=prompts, n=2), 10)
        assert bodies(parts) == [{"prompt": [prompt], "n": 2} for prompt in prompts]
        assert [(part.first, part.prompts) for part in parts] == [(0, 1), (1, 1), (2, 1)]


@pytest.mark.parametrize("path", [EMBEDDINGS, Exchange.POOLING, Exchange.CLASSIFY])
def test_inputs_that_are_pooled_go_some_at_a_time(path: Exchange) -> None:
    parts = parts_of(request(path, input=[f"{number}" for number in range(33)], encoding_format="base64"), 100)
    assert [(part.first, part.prompts) for part in parts] == [(0, 16), (16, 16), (32, 1)]
    assert bodies(parts)[2] == {"input": ["32"], "encoding_format": "base64"}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (EMBEDDINGS, {"input": ["a"] * 33, "encoding_format": "bytes"}),
        (Exchange.RERANK, {"query": "a", "documents": ["a"] * 33}),
        (Exchange.SCORE_V1, {"text_1": ["a"], "text_2": ["a"] * 33}),
        (Exchange.COHERE_EMBED, {"texts": ["a"] * 33}),
    ],
)
def test_what_cannot_be_put_together_again_stays_whole_and_counts_as_many(path: Exchange, fields: Any) -> None:
    found = request(path, **fields)
    assert parts_of(found, 100) == [Part(found.body, prompts=33)]
    assert prompts_of(found) == 33
    with pytest.raises(TooLarge):
        parts_of(found, 32)


@pytest.mark.parametrize(
    "prompt", ["a", [1, 2, 3], ["a"], [], [["a"]], [{"a": 1}, "b"], ["a", 5], ["a", [5]], {"a": 1}, 5, None]
)
def test_what_is_no_list_of_prompts_goes_on_as_it_came(prompt: object) -> None:
    found = request(prompt=prompt)
    assert parts_of(found, 10) == [Part(found.body)]


def test_a_prompt_in_another_field_is_no_list() -> None:
    found = request(CHAT, prompt=["a", "b"])
    assert parts_of(found, 10) == [Part(found.body)]


def test_more_prompts_than_a_batch_may_have_are_too_large() -> None:
    with pytest.raises(TooLarge) as refused:
        parts_of(request(prompt=["a"] * 11), 10)
    assert (refused.value.param, refused.value.code) == ("prompt", "request_too_large")


# ---------------------------------------------------------------- convictions


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_conviction_holds_for_an_hour_and_for_that_request_alone() -> None:
    convictions = Convictions(clock := Clock())
    poison, well = b'{"prompt":"poison"}', b'{"prompt":"well"}'
    assert convictions.seconds_left(CHAT, poison) == 0.0
    convictions.add(CHAT, poison)
    clock.now = KEPT_S - 1
    assert convictions.seconds_left(CHAT, poison) == 1.0
    assert convictions.seconds_left(COMPLETIONS, poison) == convictions.seconds_left(CHAT, well) == 0.0
    clock.now = KEPT_S + 1
    assert convictions.seconds_left(CHAT, poison) == 0.0


@pytest.mark.parametrize("fields", [b"", b',"stream":true', b',"stream":false,"stream_options":{"include_usage":true}'])
def test_a_conviction_holds_however_the_answer_is_to_come(fields: bytes) -> None:
    convictions = Convictions(Clock())
    convictions.add(CHAT, b'{"prompt":"poison","stream":true}')
    assert convictions.seconds_left(CHAT, b'{"prompt":"poison"' + fields + b"}") == KEPT_S


def test_the_oldest_convictions_are_forgotten_where_there_are_too_many() -> None:
    convictions = Convictions(Clock())
    for number in range(MOST_KEPT + 1):
        convictions.add(CHAT, b'{"prompt":"%d"}' % number)
    assert convictions.seconds_left(CHAT, b'{"prompt":"0"}') == 0.0
    assert convictions.seconds_left(CHAT, b'{"prompt":"1"}') == KEPT_S


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, "invalid_request_error", "invalid_request"),
        (404, "not_found_error", "invalid_request"),
        (500, "internal_server_error", "internal_error"),
        (503, "service_unavailable_error", "internal_error"),
    ],
)
def test_a_refusal_of_the_application_has_words_where_it_has_numbers(status: int, kind: str, code: str) -> None:
    body = b'{"error":{"message":"no","type":"BadRequestError","param":"body.n","code":%d}}' % status
    refusal = refusal_of_answer(status, body)
    assert (refusal.status, refusal.kind, refusal.code) == (status, kind, code)
    assert (refusal.message, refusal.param) == ("no", "n")


def test_a_code_that_is_a_word_stays() -> None:
    assert refusal_of_answer(400, b'{"error":{"message":"no","code":"too_long"}}').code == "too_long"


def test_an_answer_in_anthropics_form_is_a_refusal_too() -> None:
    body = b'{"type":"error","error":{"type":"invalid_request_error","message":"no"}}'
    assert refusal_of_answer(400, body).message == "no"


@pytest.mark.parametrize("body", [b"", b"null", b"Internal Server Error", b'{"detail":"Not Found"}'])
def test_a_refusal_without_an_error_says_its_status(body: bytes) -> None:
    assert "status 404" in refusal_of_answer(404, body).message


def test_what_no_application_answered_may_come_again_if_that_may_help() -> None:
    again = refusal_of_item(ItemError(ItemErrorCode.RANK_LOST, "lost"))
    assert (again.status, again.code) == (503, "rank_lost")
    assert again.headers["Retry-After"]
    never = refusal_of_item(ItemError(ItemErrorCode.POISONED, "poison"))
    assert (never.status, never.code, never.headers) == (400, "poisoned", {})
