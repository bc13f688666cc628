"""What openai's package gets from a server: models, completions, chats, structured output, tools, errors, retries."""

import asyncio
import json
import time
from typing import Any

import openai
from checking import Skipped, Target, run_checks
from pydantic import BaseModel

PROMPT = "The capital of France is"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
CITIES = {"type": "string", "enum": ["Paris", "Rome"]}
SCHEMA = {"type": "object", "properties": {"city": CITIES}, "required": ["city"], "additionalProperties": False}
WEATHER = {"type": "function", "function": {"name": "weather", "strict": True, "parameters": SCHEMA}}
NO_SPACES = 2.0  # of frequency_penalty: a small model would fill its JSON with white space for ever
TIMEOUT_S = 60


def connect(target: Target, **options: Any) -> Any:
    """A client; untyped, because two versions of the package are checked by one program."""
    return openai.OpenAI(**{"base_url": target.base_url, "api_key": target.api_key, "timeout": TIMEOUT_S} | options)


# ---------------------------------------------------------------- models


def check_models_are_listed(target: Target) -> None:
    models = list(connect(target).models.list())
    assert [model.id for model in models] == [target.model], models
    assert models[0].object == "model" and models[0].created > 0, models


def check_a_model_is_retrieved(target: Target) -> None:
    target.needs("/v1/models/{model}")
    assert connect(target).models.retrieve(target.model).id == target.model


# ---------------------------------------------------------------- completions


def complete(target: Target, prompt: Any = PROMPT, **fields: Any) -> Any:
    fields = {"max_tokens": 8, "temperature": 0} | fields
    return connect(target).completions.create(model=target.model, prompt=prompt, **fields)


def check_a_completion_has_text_and_usage(target: Target) -> None:
    answer = complete(target)
    assert answer.object == "text_completion" and answer.model == target.model, answer
    assert answer.choices[0].text.strip(), answer
    assert answer.choices[0].finish_reason in ("stop", "length"), answer
    usage = answer.usage
    assert usage.prompt_tokens > 0 and 0 < usage.completion_tokens <= 8, usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage


def check_several_prompts_and_token_ids_are_answered_in_order(target: Target) -> None:
    texts = ["The capital of France is", "The capital of Japan is"]
    together = [choice.text for choice in complete(target, texts).choices]
    assert together == [complete(target, text).choices[0].text for text in texts], together
    ids = complete(target, [[17, 300, 45], [99, 12]])
    assert [choice.index for choice in ids.choices] == [0, 1] and ids.usage.prompt_tokens == 5, ids


def check_n_gives_that_many_choices(target: Target) -> None:
    answer = complete(target, n=3, temperature=1, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1, 2], answer
    assert answer.usage.completion_tokens > 8, answer.usage


def check_stop_ends_a_completion_before_the_string(target: Target) -> None:
    prompt = "Hello, my name is"
    whole = complete(target, prompt, max_tokens=24).choices[0].text
    word = whole.split()[2]
    choice = complete(target, prompt, max_tokens=24, stop=[word]).choices[0]
    assert choice.finish_reason == "stop" and choice.text == whole[: whole.index(word)], (choice, whole)


def check_echo_and_logprobs_cover_the_prompt(target: Target) -> None:
    answer = complete(target, echo=True, logprobs=2)
    choice = answer.choices[0]
    assert choice.text.startswith(PROMPT), choice
    found = choice.logprobs
    assert "".join(found.tokens).removesuffix("<|eos|>") == choice.text, choice
    assert len(found.tokens) == answer.usage.total_tokens, answer
    assert found.token_logprobs[0] is None and all(value <= 0 for value in found.token_logprobs[1:]), found
    assert all(len(top) >= 2 for top in found.top_logprobs[1:]), found
    assert found.text_offset[:2] == [0, len(found.tokens[0])], found


def check_a_streamed_completion_has_the_same_text(target: Target) -> None:
    whole = complete(target)
    chunks = list(complete(target, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text, chunks
    assert len(chunks) > 2, chunks
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == whole.usage.total_tokens, chunks[-1]


# ---------------------------------------------------------------- chats


def chat(target: Target, **fields: Any) -> Any:
    fields = {"max_tokens": 24, "temperature": 0, "messages": QUESTION} | fields
    return connect(target).chat.completions.create(model=target.model, **fields)


def check_a_chat_is_answered(target: Target) -> None:
    answer = chat(target)
    assert answer.object == "chat.completion" and answer.id, answer
    assert answer.choices[0].message.role == "assistant" and "Paris" in answer.choices[0].message.content, answer
    assert answer.choices[0].finish_reason == "stop", answer


def check_chats_of_several_turns_and_parts_are_answered(target: Target) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": [{"type": "text", "text": "What is the capital of Japan?"}]},
    ]
    assert chat(target, messages=turns, max_completion_tokens=24).choices[0].message.content


def check_a_streamed_chat_has_the_same_text_and_the_usage(target: Target) -> None:
    whole = chat(target)
    chunks = list(chat(target, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant", chunks[0]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content, (text, whole)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop", chunks
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage, (chunks[-1], whole.usage)


def check_a_stream_may_be_left(target: Target) -> None:
    with chat(target, stream=True, max_tokens=500) as stream:
        next(iter(stream))
    assert chat(target).choices[0].message.content


def check_chats_have_logprobs(target: Target) -> None:
    answer = chat(target, logprobs=True, top_logprobs=3)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == answer.usage.completion_tokens, answer
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 3 for token in tokens), tokens
    said = b"".join(bytes(token.bytes) for token in tokens).decode()
    assert said.startswith(answer.choices[0].message.content), said


def check_many_chats_at_once_are_answered(target: Target) -> None:
    async def ask_all() -> list[Any]:
        client: Any = openai.AsyncOpenAI(base_url=target.base_url, api_key=target.api_key, timeout=TIMEOUT_S)
        async with client:
            asked = {"model": target.model, "messages": QUESTION, "max_tokens": 24, "temperature": 0}
            return await asyncio.gather(*(client.chat.completions.create(**asked) for _ in range(16)))

    assert all("Paris" in answer.choices[0].message.content for answer in asyncio.run(ask_all()))


# ---------------------------------------------------------------- structured output and tools


def check_a_json_schema_is_kept(target: Target) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}
    answer = chat(target, response_format=form, max_tokens=120, frequency_penalty=NO_SPACES)
    assert json.loads(answer.choices[0].message.content)["city"] in CITIES["enum"], answer


def check_an_answer_is_parsed_into_a_model_of_pydantic(target: Target) -> None:
    class Trip(BaseModel):
        is_far: bool

    asked = {"model": target.model, "messages": QUESTION, "max_tokens": 120, "temperature": 0}
    answer = connect(target).chat.completions.parse(response_format=Trip, frequency_penalty=NO_SPACES, **asked)
    assert isinstance(answer.choices[0].message.parsed, Trip), answer


def check_a_named_tool_is_called(target: Target) -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    message = chat(
        target, tools=[WEATHER], tool_choice=named, max_tokens=120, frequency_penalty=NO_SPACES
    ).choices[0].message  # fmt: skip
    assert [call.function.name for call in message.tool_calls] == ["weather"], message
    assert json.loads(message.tool_calls[0].function.arguments)["city"] in CITIES["enum"], message


def check_a_required_tool_is_called_in_a_stream(target: Target) -> None:
    asked = {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 120, "frequency_penalty": NO_SPACES}
    deltas = [chunk.choices[0].delta for chunk in chat(target, stream=True, **asked) if chunk.choices]
    calls = [call for delta in deltas for call in delta.tool_calls or [] if call.index == 0]
    assert [call.function.name for call in calls if call.function.name] == ["weather"], calls
    arguments = "".join(call.function.arguments or "" for call in calls)
    assert json.loads(arguments)["city"] in CITIES["enum"], arguments


def check_the_model_may_choose_to_call_a_tool(target: Target) -> None:
    choice = chat(target, tools=[WEATHER], tool_choice="auto").choices[0]
    assert choice.message.content or choice.message.tool_calls, choice


def check_the_result_of_a_tool_is_taken(target: Target) -> None:
    call = {"id": "call-1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    turns = [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call-1", "content": "It is sunny."},
    ]
    assert chat(target, messages=turns, tools=[WEATHER], tool_choice="none").choices[0].message.content


# ---------------------------------------------------------------- errors and retries


def refusal(kind: type[openai.APIStatusError], target: Target, **fields: Any) -> Any:
    """The error of the class that this chat must raise."""
    try:
        answer = chat(target, **fields)
    except kind as error:
        assert {"message", "type", "param", "code"} <= set(error.body), error.body  # type: ignore[call-overload]
        return error
    raise AssertionError(f"it is answered: {answer}")


def check_another_model_is_not_found(target: Target) -> None:
    asked = {"model": "no-such-model", "messages": QUESTION}
    try:
        answer = connect(target).chat.completions.create(**asked)
    except openai.NotFoundError as error:
        assert "no-such-model" in error.message and error.param == "model", (error.message, error.body)
    else:
        raise AssertionError(f"it is answered: {answer}")


def check_bad_values_are_bad_requests(target: Target) -> None:
    error = refusal(openai.BadRequestError, target, temperature=-1)
    assert "temperature" in error.message and error.param == "temperature", (error.message, error.param)
    refusal(openai.BadRequestError, target, messages=[])
    refusal(openai.BadRequestError, target, stream=True, messages=[{"role": "user", "content": "river " * 5000}])


def check_a_wrong_key_is_an_authentication_error(target: Target) -> None:
    if not target.has_keys:
        raise Skipped(f"{target.base_url} has no API keys")
    for route in ("models.list()", "a chat"):
        client = connect(target, api_key="wrong")
        try:
            answer = client.models.list() if route == "models.list()" else chat_with(client, target)
        except openai.AuthenticationError:
            continue
        raise AssertionError(f"{route} is answered: {answer}")


def chat_with(client: Any, target: Target) -> Any:
    return client.chat.completions.create(model=target.model, messages=QUESTION, max_tokens=2)


def check_a_retry_waits_as_long_as_it_is_told(target: Target) -> None:
    if target.limited_key is None:
        raise Skipped(f"{target.base_url} has no key that may send few requests")
    answers: list[tuple[float, int, str | None]] = []

    def note(response: Any) -> None:
        answers.append((time.monotonic(), response.status_code, response.headers.get("retry-after")))

    http_client = openai.DefaultHttpxClient(event_hooks={"response": [note]})
    client = connect(target, api_key=target.limited_key, http_client=http_client)
    for _ in range(3):
        assert chat_with(client, target).choices
    assert [status for _, status, _ in answers].count(200) == 3, answers
    refused = [place for place, (_, status, _) in enumerate(answers) if status == 429]
    assert refused, answers
    for place in refused:
        waited_s = answers[place + 1][0] - answers[place][0]
        assert waited_s >= float(answers[place][2] or "nan"), answers
    impatient = client.with_options(max_retries=0)
    try:
        chat_with(impatient, target)
        chat_with(impatient, target)
    except openai.RateLimitError as error:
        assert 1 <= float(error.response.headers["retry-after"]) <= 60, error.response.headers
    else:
        raise AssertionError("two at once are answered")


if __name__ == "__main__":
    run_checks(globals())
