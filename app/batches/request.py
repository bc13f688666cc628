"""What a client sends: the fields of a batch and of one of its prompts. Prompts are kept as the JSON they came in.

Null is the same as absence, in every field but `prompts`.
"""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

MAX_SECONDS = 1e9  # 31 years, after which a time is still a date
PRIORITY_BOUND = 2**31 - 1
CUSTOM_ID_LENGTH = 512

CustomId = Annotated[str, Meta(min_length=1, max_length=CUSTOM_ID_LENGTH)]


Seconds = Annotated[float, Meta(gt=0, le=MAX_SECONDS)]


class BatchRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of ``POST /v1/batch_generate``."""

    prompts: Raw  # a list, taken apart by app/batches/splitting.py
    model: str | None = None
    sampling_params: Raw | UnsetType = UNSET
    timeout_s: Seconds | None = None
    priority: Annotated[int, Meta(ge=-PRIORITY_BOUND, le=PRIORITY_BOUND)] | None = None
    return_token_ids: bool | None = None
    return_prompt: bool | None = None
    stream: bool | None = None
    background: bool | None = None
    expires_after_s: Seconds | None = None
    metadata: Raw | UnsetType = UNSET
    dry_run: bool | None = None


class PromptObject(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A prompt with fields of its own. Exactly one of `prompt` and `messages` is there."""

    prompt: Raw | UnsetType = UNSET
    messages: Raw | UnsetType = UNSET
    custom_id: CustomId | None = None
    sampling_params: Raw | UnsetType = UNSET
    tools: Raw | UnsetType = UNSET
    chat_template_kwargs: Raw | UnsetType = UNSET
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    metadata: Raw | UnsetType = UNSET


# What a client is likely to get wrong, and where it belongs.
MISPLACED = {
    "idempotency_key": "it is a header, Idempotency-Key",
    "messages": 'it belongs in an entry of prompts, as in {"messages": [...]}',
    "prompt": "it is called prompts here, and is a list",
    "requests": "it is called prompts here",
    "custom_ids": "custom_id belongs in an entry of prompts",
}
DEFAULT_PRIORITY = 0
NO_PROMPTS = Raw(b"[]")  # of a request whose prompts are kept elsewhere


def bytes_of(raw: Raw | UnsetType) -> bytes | None:
    """The JSON of an optional field; null counts as absent."""
    if raw is UNSET:
        return None
    value = bytes(raw)
    return None if value == b"null" else value
