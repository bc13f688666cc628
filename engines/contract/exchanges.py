"""Exchanges: requests in OpenAI's API, which an engine's own application answers inside a rank.

An exchange is an item like any other. What it asks for is a request's body as it came, and what comes back is the body
of an answer, which nobody between the application and the client takes apart.
"""

from enum import StrEnum

import msgspec

BATCH_GENERATE = "/v1/batch_generate"  # no exchange: the path of our own


class Exchange(StrEnum):
    """The paths that may be passed on to a rank, and nothing else ever is: what acts on an engine, fetches from
    elsewhere or leaves state in one rank has no place here."""

    COMPLETIONS = "/v1/completions"
    CHAT_COMPLETIONS = "/v1/chat/completions"
    RESPONSES = "/v1/responses"
    MESSAGES = "/v1/messages"
    COUNT_TOKENS = "/v1/messages/count_tokens"
    EMBEDDINGS = "/v1/embeddings"
    COHERE_EMBED = "/v2/embed"
    POOLING = "/pooling"
    CLASSIFY = "/classify"
    SCORE = "/score"
    SCORE_V1 = "/v1/score"
    RERANK = "/rerank"
    RERANK_V1 = "/v1/rerank"
    RERANK_V2 = "/v2/rerank"
    TOKENIZE = "/tokenize"
    DETOKENIZE = "/detokenize"

    @property
    def is_instant(self) -> bool:
        """Whether it needs no sequence of the engine."""
        return self in INSTANT

    @property
    def may_stream(self) -> bool:
        """Whether a client may ask for the answer as it comes."""
        return self in STREAMING


INSTANT = frozenset({Exchange.COUNT_TOKENS, Exchange.TOKENIZE, Exchange.DETOKENIZE})
STREAMING = frozenset({Exchange.COMPLETIONS, Exchange.CHAT_COMPLETIONS, Exchange.RESPONSES, Exchange.MESSAGES})
STREAM_WINDOW_BYTES = 256 * 1024  # that a rank sends of one stream before its client has taken them


class ExchangeHead(msgspec.Struct, array_like=True, frozen=True):
    """What there is of a request beside its body."""

    path: Exchange
    request_id: str  # the gateway's: the answer's own id is made of it
    streams: bool = False  # the answer goes on as it comes

    def encode(self) -> bytes:
        """As a rank gets it."""
        return _encode(self)


class AnswerHead(msgspec.Struct, array_like=True, frozen=True):
    """What there is of an answer beside its body."""

    status: int
    content_type: str
    metadata: str = ""  # vLLM's header of this name: where in the body each vector is, when they come as bytes


_encode = msgspec.msgpack.Encoder().encode
decode_head = msgspec.msgpack.Decoder(ExchangeHead).decode
