"""What exchanges take and answer, as far as /openapi.json says it: the fields that each API cannot do without.

All others are OpenAI's, Anthropic's and vLLM's to describe. They go on, and come back, as they are.
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Raw

from app.api import anthropic_errors
from app.api.describing import Described, Schema, array_of
from engines.contract.exchanges import Exchange

Json = dict[str, Any]  # Any: JSON
TEXT: Schema = {"type": "string"}
TOKENS = array_of({"type": "integer", "minimum": 0})
TEXTS: Schema = {"anyOf": [TEXT, array_of(TEXT), TOKENS, array_of(TOKENS)]}
PAIRED: Schema = {"anyOf": [TEXT, {"type": "object"}, array_of({"anyOf": [TEXT, {"type": "object"}]})]}
MESSAGES = array_of({"type": "object", "required": ["role"], "properties": {"role": TEXT}}, minItems=1)
INPUT_ITEMS = array_of({"type": "object"})


class ExchangeBody(msgspec.Struct, kw_only=True):
    """A request that is answered whole."""

    model: str | None = None
    priority: int | None = None


class StreamableBody(ExchangeBody, kw_only=True):
    """A request whose answer may come as it is made."""

    stream: bool | None = None


class CompletionBody(StreamableBody, kw_only=True):
    """A text, the ids of its tokens, or a list of either."""

    prompt: Raw


class ChatBody(StreamableBody, kw_only=True):
    """A conversation."""

    messages: Raw


class ResponseBody(StreamableBody, kw_only=True):
    """A text, or a list of what has been said so far."""

    input: Raw


class MessagesBody(ChatBody, kw_only=True):
    """A conversation, and how long its answer may be."""

    max_tokens: int


class CountBody(ExchangeBody, kw_only=True):
    """A conversation whose tokens are counted."""

    messages: Raw


class EmbeddingBody(ExchangeBody, kw_only=True):
    """A text, the ids of its tokens, or a list of either."""

    input: Raw


class CohereBody(ExchangeBody, kw_only=True):
    """Texts."""

    texts: list[str]


class ScoreBody(ExchangeBody, kw_only=True):
    """Texts, one or as many on one side as on the other."""

    queries: Raw
    documents: Raw


class RerankBody(ExchangeBody, kw_only=True):
    """Texts to be ranked by another one."""

    query: Raw
    documents: Raw


class TokenizeBody(ExchangeBody, kw_only=True):
    """A text, or a conversation as `messages`."""

    prompt: str | None = None


class DetokenizeBody(ExchangeBody, kw_only=True):
    """Ids of tokens."""

    tokens: Raw


class Completion(msgspec.Struct, kw_only=True):
    """An answer to a completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[Json]
    usage: Json


class Chat(msgspec.Struct, kw_only=True):
    """An answer to a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Json]
    usage: Json


class ResponseAnswer(msgspec.Struct, kw_only=True):
    """An answer of OpenAI's responses."""

    id: str
    object: Literal["response"]
    created_at: int
    model: str
    status: str
    output: list[Json]


class MessageAnswer(msgspec.Struct, kw_only=True):
    """An answer of Anthropic's messages."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[Json]


class TokenCount(msgspec.Struct, kw_only=True):
    """How many tokens a conversation has."""

    input_tokens: int


class Vectors(msgspec.Struct, kw_only=True):
    """What was made of each input, in its place."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Json]
    usage: Json


class CohereVectors(msgspec.Struct, kw_only=True):
    """What was made of each text, by the kinds of vectors that were asked for."""

    id: str
    response_type: Literal["embeddings_by_type"]
    embeddings: Json


class Ranking(msgspec.Struct, kw_only=True):
    """Documents, the best first."""

    id: str
    model: str
    results: list[Json]
    usage: Json


class Tokens(msgspec.Struct, kw_only=True):
    """The ids of a text's tokens."""

    count: int
    max_model_len: int
    tokens: list[int]


class Text(msgspec.Struct, kw_only=True):
    """The text of tokens."""

    prompt: str


Struct = type[msgspec.Struct]
SCORING = (Exchange.SCORE, Exchange.SCORE_V1)
RERANKING = (Exchange.RERANK, Exchange.RERANK_V1, Exchange.RERANK_V2)
SHAPES: Mapping[Exchange, tuple[Struct, Struct]] = {  # of the body, and of the answer
    Exchange.COMPLETIONS: (CompletionBody, Completion),
    Exchange.CHAT_COMPLETIONS: (ChatBody, Chat),
    Exchange.RESPONSES: (ResponseBody, ResponseAnswer),
    Exchange.MESSAGES: (MessagesBody, MessageAnswer),
    Exchange.COUNT_TOKENS: (CountBody, TokenCount),
    Exchange.EMBEDDINGS: (EmbeddingBody, Vectors),
    Exchange.COHERE_EMBED: (CohereBody, CohereVectors),
    Exchange.POOLING: (EmbeddingBody, Vectors),
    Exchange.CLASSIFY: (EmbeddingBody, Vectors),
    **dict.fromkeys(SCORING, (ScoreBody, Vectors)),
    **dict.fromkeys(RERANKING, (RerankBody, Ranking)),
    Exchange.TOKENIZE: (TokenizeBody, Tokens),
    Exchange.DETOKENIZE: (DetokenizeBody, Text),
}
EVENTS = ("text/event-stream",)
VECTORS = ("application/octet-stream",)  # with an encoding_format of bytes
OTHER_TYPES: Mapping[Exchange, tuple[str, ...]] = {  # media types of answers that are no JSON
    **{path: EVENTS for path in Exchange if path.may_stream},
    **dict.fromkeys((Exchange.EMBEDDINGS, Exchange.POOLING), VECTORS),
}
_CONTENT: Mapping[str, Schema] = {  # fields that are kept as JSON
    "prompt": TEXTS,
    "messages": MESSAGES,
    "input": TEXTS,
    "queries": PAIRED,
    "query": PAIRED,
    "documents": PAIRED,
    "tokens": TOKENS,
}
_NOTES = {
    "model": "The one that is served, if any.",
    "priority": "Lower runs first, within what the API key may use.",
}


def _described(body: Struct) -> Described:
    raw = [field.name for field in msgspec.structs.fields(body) if field.type is Raw]
    opaque = {name: _CONTENT[name] for name in raw}
    if body is ResponseBody:
        opaque["input"] = {"anyOf": [TEXT, INPUT_ITEMS]}
    return Described(body, is_read=True, opaque=opaque, notes=_NOTES)


SCHEMAS = (
    *(_described(body) for body in dict.fromkeys(body for body, _ in SHAPES.values())),
    *(Described(answer) for answer in dict.fromkeys(answer for _, answer in SHAPES.values())),
    *(Described(struct) for struct in anthropic_errors.STRUCTS),
)
_QUESTION = "What is the capital of France?"
_HI: Json = {"messages": [{"role": "user", "content": _QUESTION}]}
_TEXTS = ["Paris is the capital of France.", "Rome is the capital of Italy."]
EXAMPLES: Mapping[Exchange, Json] = {
    Exchange.COMPLETIONS: {"prompt": "The capital of France is", "max_tokens": 16},
    Exchange.CHAT_COMPLETIONS: _HI | {"max_tokens": 16, "stream": True},
    Exchange.RESPONSES: {"input": _QUESTION, "max_output_tokens": 16},
    Exchange.MESSAGES: _HI | {"max_tokens": 16},
    Exchange.COUNT_TOKENS: _HI,
    Exchange.EMBEDDINGS: {"input": _TEXTS},
    Exchange.COHERE_EMBED: {"texts": _TEXTS, "embedding_types": ["float"]},
    Exchange.POOLING: {"input": _TEXTS},
    Exchange.CLASSIFY: {"input": _TEXTS},
    **{path: {"queries": _QUESTION, "documents": _TEXTS} for path in SCORING},
    **{path: {"query": _QUESTION, "documents": _TEXTS} for path in RERANKING},
    Exchange.TOKENIZE: {"prompt": "The capital of France is"},
    Exchange.DETOKENIZE: {"tokens": [1, 15043, 29892]},
}
