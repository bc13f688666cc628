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
LISTS = {Exchange.COMPLETIONS: ("prompt", 1), Exchange.EMBEDDINGS: ("input", 16)}
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
    entries = _list_of(request)
    if entries is None:
        return [Part(request.body)]
    field, size = LISTS[request.path]
    if len(entries) > most:
        raise TooLarge(
            f"{field} has {len(entries)} entries, at most {most} are accepted (--max-batch-items): split it",
            param=field,
            code="batch_too_large",
        )
    if len(entries) <= size:
        return [Part(request.body, prompts=len(entries))]
    parts = []
    for first in range(0, len(entries), size):
        some = entries[first : first + size]
        fields: Fields = request.fields | {field: msgspec.Raw(b"[" + b",".join(some) + b"]")}
        parts.append(Part(_encode(fields), first, len(some)))
    return parts


def prompts_of(request: ExchangeRequest) -> int:
    """How many prompts a request has."""
    return len(_list_of(request) or " ")


def _list_of(request: ExchangeRequest) -> list[bytes] | None:
    """The prompts of a list of prompts; None for a single one, and for what is no list of prompts."""
    field = LISTS[request.path][0] if request.path in LISTS else None
    value = request.raw(field) if field is not None else None
    if value is None or not value.startswith(b"["):
        return None
    try:
        entries = [bytes(entry) for entry in _entries(value)]
    except DECODE_ERRORS:
        return None
    is_list = bool(entries) and all(entry.startswith((b'"', b"[")) for entry in entries)
    return entries if is_list else None
