"""OpenAI's API, and Anthropic's, answered by vLLM's own application in a rank. Real vLLM through HTTP."""

import json
from typing import Any

import anthropic
import jsonschema
import pytest

from tests.exchanging import (
    CHAT,
    COMPLETIONS,
    DONE,
    MESSAGES,
    RESPONSES,
    Leaving,
    ask,
    streaming,
    texts_of,
    usage_of,
)
from tests.service import Json, Service, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PROMPT = "Hello, my name is"
GREEDY: Json = {"temperature": 0.0, "max_tokens": 12, "ignore_eos": True}
HI = [{"role": "user", "content": "Hi"}]
LONG: Json = {"max_tokens": 2000, "ignore_eos": True}
SAMPLES: Json = {"n": 8, "seed": 5, "max_tokens": 200}
CITY: Json = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": CITY}}]
WEATHER: Json = {"type": "function", "function": {"name": "weather"}}


def answered(service: Service, path: str, **body: Any) -> Json:
    answer = ask(service, path, **body)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


def model_of(service: Service) -> str:
    return str(service.client.get("/v1/models").json()["data"][0]["id"])


def ended(answer: Json) -> list[Json]:
    """The messages of those choices that came to an end. With random weights, not all do."""
    found = [choice["message"] for choice in answer["choices"] if choice["finish_reason"] != "length"]
    assert found
    return found


# ---------------------------------------------------------------- completions


def test_a_completion_is_what_a_batch_says_and_ends_where_it_is_told_to(one_rank: Service) -> None:
    (result,) = one_rank.batch([PROMPT], sampling_params=GREEDY)["results"]
    text = result["outputs"][0]["text"]
    (choice,) = answered(one_rank, COMPLETIONS, prompt=PROMPT, **GREEDY)["choices"]
    assert (choice["text"], choice["finish_reason"]) == (text, "length")
    stop = text.strip()[4:6]
    (choice,) = answered(one_rank, COMPLETIONS, prompt=PROMPT, **GREEDY, stop=[stop])["choices"]
    assert choice["text"] == text[: text.index(stop)]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)
    many = [*(f"none {number}" for number in range(63)), stop]
    (choice,) = answered(one_rank, COMPLETIONS, prompt=PROMPT, **GREEDY, stop=many)["choices"]
    assert choice["stop_reason"] == stop


def test_several_outputs_have_their_places_and_their_logprobs(one_rank: Service) -> None:
    body: Json = {"prompt": PROMPT, "n": 3, "seed": 7, "max_tokens": 5, "ignore_eos": True}
    answer = answered(one_rank, COMPLETIONS, **body, logprobs=2)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert len({choice["text"] for choice in answer["choices"]}) == 3
    assert answer["usage"]["completion_tokens"] == 15
    for choice in answer["choices"]:
        logprobs = choice["logprobs"]
        assert len(logprobs["tokens"]) == len(logprobs["top_logprobs"]) == 5
        assert all(2 <= len(top) <= 3 for top in logprobs["top_logprobs"])


def test_a_prompt_can_be_echoed_with_its_logprobs_and_without_a_token_more(one_rank: Service) -> None:
    (choice,) = answered(one_rank, COMPLETIONS, prompt=PROMPT, **GREEDY, echo=True, logprobs=1)["choices"]
    assert choice["text"].startswith(PROMPT)
    first, second, *_ = choice["logprobs"]["token_logprobs"]
    assert first is None
    assert second < 0
    prompts = [[30, 31, 32], [33, 34]]
    answer = answered(one_rank, COMPLETIONS, prompt=prompts, max_tokens=0, echo=True, logprobs=1)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert [len(choice["logprobs"]["tokens"]) for choice in answer["choices"]] == [3, 2]
    texts = [answered(one_rank, "/detokenize", tokens=prompt)["prompt"] for prompt in prompts]
    assert [choice["text"] for choice in answer["choices"]] == texts
    assert answer["usage"]["prompt_tokens"] == 5


# ---------------------------------------------------------------- chat


def test_a_chat_has_logprobs_of_each_token(one_rank: Service) -> None:
    answer = answered(one_rank, CHAT, messages=HI, **GREEDY, logprobs=True, top_logprobs=3)
    (choice,) = answer["choices"]
    assert len(choice["logprobs"]["content"]) == answer["usage"]["completion_tokens"] == 12
    assert all(len(token["top_logprobs"]) == 3 for token in choice["logprobs"]["content"])


def test_a_response_format_is_held(one_rank: Service) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
    for message in ended(answered(one_rank, CHAT, messages=HI, **SAMPLES, response_format=schema)):
        jsonschema.validate(json.loads(message["content"]), CITY)
    any_object = {"type": "json_object"}
    for message in ended(answered(one_rank, CHAT, messages=HI, **SAMPLES, response_format=any_object)):
        assert isinstance(json.loads(message["content"]), dict)


@pytest.mark.parametrize("choice", ["required", WEATHER])
def test_a_tool_that_has_to_be_called_is_called_as_its_schema_says(one_rank: Service, choice: str | Json) -> None:
    answer = answered(one_rank, CHAT, messages=HI, **SAMPLES, tools=TOOLS, tool_choice=choice)
    for message in ended(answer):
        for call in message["tool_calls"]:
            assert call["function"]["name"] == "weather"
            jsonschema.validate(json.loads(call["function"]["arguments"]), CITY)


@pytest.mark.parametrize("more", [{}, {"parallel_tool_calls": False}])
def test_a_tool_that_may_be_called_need_not_be(one_rank: Service, more: Json) -> None:
    tools = [{"type": "function", "function": TOOLS[0]["function"] | {"strict": True}}]
    answer = answered(one_rank, CHAT, messages=HI, **GREEDY, tools=tools, tool_choice="auto", **more)
    assert answer["choices"][0]["message"]["content"]


def test_a_tool_that_is_not_there_cannot_be_called(one_rank: Service) -> None:
    other = {"type": "function", "function": {"name": "other"}}
    answer = ask(one_rank, CHAT, messages=HI, tools=TOOLS, tool_choice=other)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tool_choice")


# ---------------------------------------------------------------- streams


@pytest.mark.parametrize(("path", "prompt"), [(COMPLETIONS, {"prompt": [PROMPT, "One"]}), (CHAT, {"messages": HI})])
def test_a_stream_says_what_a_whole_answer_says(one_rank: Service, path: str, prompt: Json) -> None:
    body: Json = {**prompt, "n": 2, "seed": 3, "max_tokens": 16, "ignore_eos": True}
    whole = answered(one_rank, path, **body)
    options = {"include_usage": True, "continuous_usage_stats": True}
    with streaming(one_rank, path, **body, stream_options=options) as stream:
        *events, last = stream
    assert last == DONE
    assert texts_of(events) == {
        choice["index"]: choice["text"] if path == COMPLETIONS else choice["message"]["content"]
        for choice in whole["choices"]
    }
    assert all(isinstance(event, dict) and event["usage"] for event in events)
    told = {name: usage_of(events)[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    assert told.items() <= whole["usage"].items()


def test_a_stream_of_a_response_is_in_events_that_end_with_the_response(one_rank: Service) -> None:
    body: Json = {"input": "Hi", "temperature": 0.0, "max_output_tokens": 8}
    whole = answered(one_rank, RESPONSES, **body)
    (text,) = [part["text"] for output in whole["output"] for part in output["content"]]
    with streaming(one_rank, RESPONSES, **body) as stream:
        events = [event for event in stream if isinstance(event, dict)]
    assert [event["type"] for event in events] == stream.names
    assert (stream.names[0], stream.names[-1]) == ("response.created", "response.completed")
    assert "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta") == text
    assert events[-1]["response"]["usage"]["output_tokens"] == whole["usage"]["output_tokens"]


def test_messages_are_answered_streamed_and_counted_as_anthropics_clients_expect(one_rank: Service) -> None:
    body: Json = {"model": model_of(one_rank), "messages": HI, "temperature": 0.0, "max_tokens": 8}
    whole = answered(one_rank, MESSAGES, **body)
    assert (whole["type"], whole["role"], whole["stop_reason"]) == ("message", "assistant", "max_tokens")
    with streaming(one_rank, MESSAGES, **body) as stream:
        events = [event for event in stream if isinstance(event, dict)]
    assert (stream.names[0], stream.names[-1]) == ("message_start", "message_stop")
    deltas = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(deltas) == whole["content"][0]["text"]
    counted = answered(one_rank, "/v1/messages/count_tokens", model=body["model"], messages=HI)
    assert counted["input_tokens"] == whole["usage"]["input_tokens"]
    tool = {"name": "weather", "input_schema": CITY}
    choice = {"type": "tool", "name": "weather"}
    called = answered(one_rank, MESSAGES, **body | {"max_tokens": 200}, tools=[tool], tool_choice=choice)
    assert [part["type"] for part in called["content"]] == ["tool_use"]


def test_anthropics_package_reads_answers_and_refusals(one_rank: Service) -> None:
    model = model_of(one_rank)
    with anthropic.Anthropic(base_url=one_rank.url, api_key="none", max_retries=0) as client:
        message = client.messages.create(model=model, messages=[{"role": "user", "content": "Hi"}], max_tokens=4)
        assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 4)
        with pytest.raises(anthropic.NotFoundError) as refused:
            client.messages.create(model="another", messages=[{"role": "user", "content": "Hi"}], max_tokens=4)
        check_anthropics(refused.value, "not_found_error", "model_not_found")
        with pytest.raises(anthropic.BadRequestError) as refused:
            client.messages.create(
                model=model,
                messages=[{"role": "user", "content": "Hi"}],
                max_tokens=4,
                extra_body={"temperature": -1},
            )
        check_anthropics(refused.value, "invalid_request_error", "invalid_request")


def check_anthropics(error: anthropic.APIStatusError, type_: str, code: str) -> None:
    body: Any = error.body
    assert (body["type"], body["error"]["type"]) == ("error", type_)
    assert body["error"]["details"] == {"error_code": code}
    assert body["request_id"] == error.request_id == error.response.headers["x-request-id"]


def test_tokens_are_those_of_the_model(one_rank: Service) -> None:
    tokens = answered(one_rank, "/tokenize", prompt="a large river", add_special_tokens=False)["tokens"]
    assert answered(one_rank, "/detokenize", tokens=tokens)["prompt"] == "a large river"
    chat = answered(one_rank, "/tokenize", messages=HI)
    usage = answered(one_rank, CHAT, messages=HI, max_tokens=1)["usage"]
    assert chat["count"] == usage["prompt_tokens"]


# ---------------------------------------------------------------- clients that go


@pytest.mark.parametrize(
    ("path", "body", "events"),
    [
        (COMPLETIONS, {"prompt": PROMPT, **LONG}, 0),
        (COMPLETIONS, {"prompt": PROMPT, **LONG, "stream": True}, 0),
        (COMPLETIONS, {"prompt": PROMPT, **LONG, "stream": True}, 3),
        (CHAT, {"messages": HI, **LONG, "stream": True}, 3),
        (RESPONSES, {"input": "Hi", "max_output_tokens": 2000, "ignore_eos": True, "stream": True}, 3),
    ],
    ids=["whole", "before the first byte", "in the midst", "in the midst of a chat", "in the midst of a response"],
)
def test_a_client_that_goes_frees_the_engine_at_once(one_rank: Service, path: str, body: Json, events: int) -> None:
    client = Leaving(one_rank, path, **body)
    client.read_events(events)
    until(lambda: one_rank.metric("vllm:num_requests_running") == 1, "it does not run")
    client.leave()
    until(lambda: one_rank.metric("vllm:num_requests_running") == 0, "it runs on", 4)
    until(one_rank.is_idle, "it is not forgotten", 10)
    assert one_rank.metric("phalanx_held_bytes") == 0
