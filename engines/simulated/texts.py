"""Texts in the shapes of OpenAI's API, whole and as the events of a stream, one event for each token."""

import time
from collections.abc import Iterator

import msgspec

from engines.contract.exchanges import Exchange
from engines.simulated.answers import Generated, generate, hash_of
from engines.simulated.bodies import StreamOptions, TextRequest
from engines.simulated.prompts import PIECE_LENGTH

DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.Encoder().encode

Json = dict[str, object]


class Choice(msgspec.Struct):
    """One text of an answer."""

    index: int
    prompt_tokens: int
    generated: Generated

    @property
    def tokens(self) -> int:
        """How many it took, and at which step of its exchange it ends."""
        return self.generated.tokens


class TextAnswer:
    """What is answered to one request for texts."""

    def __init__(self, path: Exchange, request_id: str, model: str, request: TextRequest, max_model_len: int) -> None:
        self._is_chat = path is Exchange.CHAT_COMPLETIONS
        self._id = f"{'chatcmpl' if self._is_chat else 'cmpl'}-{request_id}"
        self._model = model
        self._created = int(time.time())
        self.choices = list(_choices(request, max_model_len))
        self.prompt_tokens = sum(prompt.tokens for prompt in request.prompts)
        self.completion_tokens = sum(choice.tokens for choice in self.choices)
        self.steps = max(choice.tokens for choice in self.choices)

    def whole(self) -> bytes:
        """All of it, as one JSON object."""
        kind = "chat.completion" if self._is_chat else "text_completion"
        choices = [self._whole_choice(choice) for choice in self.choices]
        return _encode(self._envelope(kind, choices) | {"usage": usage(self.prompt_tokens, self.completion_tokens)})

    def events(self, options: StreamOptions) -> Iterator[list[bytes]]:
        """The events of each step. The last step's end the stream."""
        running = self.choices
        for step in range(1, self.steps + 1):
            events = [event for choice in running for event in self._events(choice, step, options)]
            running = [choice for choice in running if choice.tokens > step]
            yield events if running else [*events, *self._last_events(options)]

    def _envelope(self, kind: str, choices: list[Json]) -> Json:
        head = {"id": self._id, "object": kind, "created": self._created, "model": self._model}
        return {**head, "choices": choices, "simulated": True}

    def _whole_choice(self, choice: Choice) -> Json:
        output = choice.generated.output
        message = {"role": "assistant", "content": output.text}
        said: Json = {"message": message} if self._is_chat else {"text": output.text}
        return {"index": choice.index, **said, "logprobs": None} | _end(choice)

    def _events(self, choice: Choice, step: int, options: StreamOptions) -> Iterator[bytes]:
        text = choice.generated.output.text
        is_last = step == choice.tokens
        piece = text[(step - 1) * PIECE_LENGTH : None if is_last else step * PIECE_LENGTH]
        told = usage(choice.prompt_tokens, step) if options.include_usage and options.continuous_usage_stats else None
        if self._is_chat and step == 1:
            yield self._event(choice, {"delta": {"role": "assistant", "content": ""}}, False, told)
        yield self._event(choice, {"delta": {"content": piece}} if self._is_chat else {"text": piece}, is_last, told)

    def _event(self, choice: Choice, said: Json, is_last: bool, told: Json | None) -> bytes:
        end = _end(choice) if is_last else {"finish_reason": None, "stop_reason": None}
        chunk = self._envelope(self._chunk_kind, [{"index": choice.index, **said, "logprobs": None} | end])
        return _as_event(chunk if told is None else chunk | {"usage": told})

    def _last_events(self, options: StreamOptions) -> Iterator[bytes]:
        if options.include_usage:
            told = usage(self.prompt_tokens, self.completion_tokens)
            yield _as_event(self._envelope(self._chunk_kind, []) | {"usage": told})
        yield DONE

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self._is_chat else "text_completion"


def usage(prompt_tokens: int, completion_tokens: int) -> Json:
    """What was counted, as OpenAI's API tells it."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def _choices(request: TextRequest, max_model_len: int) -> Iterator[Choice]:
    plan = request.plan
    for place, prompt in enumerate(request.prompts):
        limit = min(plan.max_tokens, max_model_len - prompt.tokens)
        for sequence in generate(plan, hash_of(plan.salt, prompt.encoded), limit):
            yield Choice(place * plan.n + sequence.output.index, prompt.tokens, sequence)


def _end(choice: Choice) -> Json:
    output = choice.generated.output
    return {"finish_reason": output.finish_reason, "stop_reason": output.stop_reason}


def _as_event(chunk: Json) -> bytes:
    return b"data: " + _encode(chunk) + b"\n\n"
