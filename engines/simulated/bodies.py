"""Bodies of exchanges, as the simulated engine reads them: what is asked for, or why it is refused.

Fields that change what a model answers, and could change nothing here, are refused by name. Others that it does not
know are ignored, as OpenAI's API does.
"""

from typing import Any, TypeVar

import msgspec

from engines.contract.item_errors import ItemError
from engines.contract.sampling import SamplingFields
from engines.simulated.answers import UNSUPPORTED, Plan, Planner
from engines.simulated.prompts import ChatMessage, count_ids, count_messages, count_text, find_misfit

MAX_SEQUENCES = 1024  # of one exchange
REFUSED = (
    *UNSUPPORTED,
    "top_logprobs",
    "echo",
    "suffix",
    "use_beam_search",
    "prompt_embeds",
    "truncate_prompt_tokens",
    "return_token_ids",
    "response_format",
    "tools",
    "functions",
    "documents",
    "audio",
    "dimensions",
)
# With one of these a field asks for nothing. Any: values of JSON
NOTHING: tuple[Any, ...] = ("", [], {}, {"type": "text"})

Fields = dict[str, Any]
Texts = str | list[str | int | list[int]]
Body = TypeVar("Body", bound=msgspec.Struct)
_encode = msgspec.json.Encoder().encode


class BodyRefused(Exception):
    """The body is malformed, or asks for what is not there. The message is for whoever sent it."""


class StreamOptions(msgspec.Struct, frozen=True):
    """What comes in a stream beside the text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class Streaming(msgspec.Struct, kw_only=True):
    """What bodies that ask for texts have in common."""

    stream: bool = False
    stream_options: StreamOptions | None = None


class Completion(Streaming):
    """What is read of a body of /v1/completions."""

    prompt: Texts


class ChatCompletion(Streaming):
    """What is read of a body of /v1/chat/completions."""

    messages: list[ChatMessage]
    chat_template_kwargs: dict[str, Any] = {}


class Embeddings(msgspec.Struct):
    """What is read of a body of /v1/embeddings."""

    input: Texts
    encoding_format: str = "float"


class Prompt(msgspec.Struct, frozen=True):
    """One prompt of a request, or one text to embed."""

    encoded: bytes  # what its answer depends on
    tokens: int


class TextRequest(msgspec.Struct, frozen=True):
    """What a request for texts asks for."""

    prompts: list[Prompt]
    plan: Plan
    stream: StreamOptions | None  # None: the answer comes whole


class EmbeddingRequest(msgspec.Struct, frozen=True):
    """What a request for vectors asks for."""

    inputs: list[Prompt]
    as_base64: bool


def read_fields(body: bytes) -> Fields:
    """The fields of a body; null is the same as absence. Raises BodyRefused and msgspec's errors."""
    fields = {name: value for name, value in msgspec.json.decode(body, type=Fields).items() if value is not None}
    for name in REFUSED:
        value = fields.pop(name, False)
        if value is not False and value not in NOTHING:
            raise BodyRefused(f"the simulated engine does not support {name!r}: leave it out")
    if not isinstance(fields.get("model", ""), str):
        raise BodyRefused("model must be a string")
    return fields


def read_body(fields: Fields, kind: type[Body]) -> Body:
    """The fields that this kind of body has. Raises msgspec's errors."""
    return msgspec.convert(fields, kind)


def read_completion(fields: Fields, planner: Planner, max_model_len: int) -> TextRequest:
    """What a body of /v1/completions asks for. Raises BodyRefused and msgspec's errors."""
    body = read_body(fields, Completion)
    return _text_request(fields, body, _read_texts(body.prompt, "prompt", max_model_len), planner)


def read_chat(fields: Fields, planner: Planner, max_model_len: int) -> TextRequest:
    """What a body of /v1/chat/completions asks for. Raises BodyRefused and msgspec's errors."""
    body = read_body(fields, ChatCompletion)
    if "max_completion_tokens" in fields:
        fields["max_tokens"] = fields["max_completion_tokens"]
    encoded = _encode([body.messages, body.chat_template_kwargs])
    prompt = Prompt(encoded, _fitting(count_messages(body.messages), max_model_len))
    return _text_request(fields, body, [prompt], planner)


def read_embeddings(fields: Fields, max_model_len: int) -> EmbeddingRequest:
    """What a body of /v1/embeddings asks for. Raises BodyRefused and msgspec's errors."""
    body = read_body(fields, Embeddings)
    if body.encoding_format not in ("float", "base64"):
        raise BodyRefused(f"encoding_format is {body.encoding_format!r}: it may be 'float' or 'base64'")
    inputs = _read_texts(body.input, "input", max_model_len)
    if len(inputs) > MAX_SEQUENCES:
        raise BodyRefused(f"{len(inputs)} inputs are too many: the simulated engine takes {MAX_SEQUENCES}")
    return EmbeddingRequest(inputs, body.encoding_format == "base64")


def _text_request(fields: Fields, body: Streaming, prompts: list[Prompt], planner: Planner) -> TextRequest:
    if body.stream_options is not None and not body.stream:
        raise BodyRefused("stream_options is there without stream: set stream to true, or leave it out")
    sampling = {name: fields[name] for name in SamplingFields.__struct_fields__ if name in fields}
    plan = planner.plan(msgspec.msgpack.encode(msgspec.convert(sampling, SamplingFields)))
    if isinstance(plan, ItemError):
        raise BodyRefused(plan.message)
    if plan.n * len(prompts) > MAX_SEQUENCES:
        asked = f"n is {plan.n}, of {len(prompts)} prompts"
        raise BodyRefused(f"{asked}: the simulated engine makes at most {MAX_SEQUENCES} texts for one request")
    return TextRequest(prompts, plan, (body.stream_options or StreamOptions()) if body.stream else None)


def _read_texts(given: Texts, name: str, max_model_len: int) -> list[Prompt]:
    """One or several prompts, each a text or token ids."""
    several = [given] if isinstance(given, str) else given
    ids = [one for one in several if isinstance(one, int)]
    if len({type(one) for one in several}) != 1:
        raise BodyRefused(f"{name} may be a text, texts, token ids, or several lists of token ids, and is none of them")
    return [_read_text(one, max_model_len) for one in ([ids] if ids else several) if not isinstance(one, int)]


def _read_text(given: str | list[int], max_model_len: int) -> Prompt:
    tokens = count_text(given) if isinstance(given, str) else count_ids(given)
    return Prompt(_encode(given), _fitting(tokens, max_model_len))


def _fitting(tokens: int | ItemError, max_model_len: int) -> int:
    """The tokens of a prompt that can run. Raises BodyRefused."""
    if isinstance(tokens, ItemError):
        raise BodyRefused(tokens.message)
    misfit = find_misfit(tokens, max_model_len, "shorten it")
    if misfit is not None:
        raise BodyRefused(misfit.message)
    return tokens
