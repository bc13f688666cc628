"""Requests with a list of prompts: each prompt is an exchange of its own, so that the list is spread over the ranks,
shares them fairly and is no item that waits for an empty rank.

vLLM's server takes 1,024 prompts in a list at most; here the limit is that of items in a request.
"""

from dataclasses import dataclass

import msgspec

from app.errors import TooLarge
from app.exchanges.request import ExchangeRequest, Fields
from app.validation import DECODE_ERRORS
from engines.contract.exchanges import Exchange

# The field that may hold a list, and how many of its entries are one part. Pooling costs little each, and has no
# stream to share.
POOLED_PROMPTS = 16
LISTS = {
    Exchange.COMPLETIONS: ("prompt", 1),
    Exchange.EMBEDDINGS: ("input", POOLED_PROMPTS),
    Exchange.POOLING: ("input", POOLED_PROMPTS),
    Exchange.CLASSIFY: ("input", POOLED_PROMPTS),
}
# Lists that are one question, and whose answer cannot be put together of parts: only their length counts.
_RERANKING = ("documents",)
_SCORING = ("documents", "items", "queries", "data_1", "data_2", "text_1", "text_2")
WHOLE_LISTS = {
    Exchange.COHERE_EMBED: ("texts", "inputs", "images"),
    Exchange.SCORE: _SCORING,
    Exchange.SCORE_V1: _SCORING,
    Exchange.RERANK: _RERANKING,
    Exchange.RERANK_V1: _RERANKING,
    Exchange.RERANK_V2: _RERANKING,
}
JOINED_ENCODINGS = (None, b'"float"', b'"base64"')  # of vectors in JSON; others come as bytes
_entries = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Part:
    """One exchange of a request. `first` is the place of its first prompt in the list."""

    body: bytes
    first: int = 0
    prompts: int = 1


def parts_of(request: ExchangeRequest, most: int) -> list[Part]:
    """The exchanges that a request is. Raises TooLarge for more than `most` prompts."""
    field, entries = _longest_list(request)
    if len(entries) > most:
        raise TooLarge(
            f"{field} has {len(entries)} entries, at most {most} are accepted (--max-batch-items): split it",
            param=field,
            code="request_too_large",
        )
    size = LISTS[request.path][1] if request.path in LISTS else len(entries)
    if len(entries) <= size or not _can_be_joined(request):
        return [Part(request.body, prompts=max(1, len(entries)))]
    parts = []
    for first in range(0, len(entries), size):
        some = entries[first : first + size]
        fields: Fields = request.fields | {field: msgspec.Raw(b"[" + b",".join(some) + b"]")}
        parts.append(Part(_encode(fields), first, len(some)))
    return parts


def _can_be_joined(request: ExchangeRequest) -> bool:
    """Whether the answers to its parts are JSON."""
    return request.path is Exchange.COMPLETIONS or request.raw("encoding_format") in JOINED_ENCODINGS


def prompts_of(request: ExchangeRequest) -> int:
    """How many prompts a request has."""
    return max(1, len(_longest_list(request)[1]))


def _longest_list(request: ExchangeRequest) -> tuple[str, list[bytes]]:
    """The field with a list of prompts, and these; none where there is a single one, and for what is no such list."""
    if request.path in LISTS:
        field = LISTS[request.path][0]
        entries = _list_of(request, field)
        is_list = {entry[:1] for entry in entries} in ({b'"'}, {b"["})  # texts and token ids do not go together
        return field, entries if is_list else []
    lists = [(field, _list_of(request, field)) for field in WHOLE_LISTS.get(request.path, ())]
    return max(lists, key=lambda found: len(found[1]), default=("", []))


def _list_of(request: ExchangeRequest, field: str) -> list[bytes]:
    value = request.raw(field)
    if value is None or not value.startswith(b"["):
        return []
    try:
        return [bytes(entry) for entry in _entries(value)]
    except DECODE_ERRORS:
        return []
