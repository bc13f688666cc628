"""An item's result as a client reads it. Outputs are spliced in as the JSON that the rank made, and never parsed."""

from dataclasses import dataclass
from typing import Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from app.batches.record import Label
from engines.contract.item_errors import ItemError
from engines.contract.protocol import Outcome, Result

Status = Literal["ok", "error", "cancelled", "timeout"]
NO_OUTPUTS = Raw(b"[]")


class PromptTokensDetails(msgspec.Struct):
    """OpenAI's name for where prompt tokens came from."""

    cached_tokens: int = 0


class Usage(msgspec.Struct):
    """Tokens of one item, or of a whole batch."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: PromptTokensDetails = msgspec.field(default_factory=PromptTokensDetails)

    def add(self, result: Result) -> None:
        """Counts one result in."""
        self.prompt_tokens += result.prompt_tokens
        self.completion_tokens += result.completion_tokens
        self.total_tokens += result.prompt_tokens + result.completion_tokens
        self.prompt_tokens_details.cached_tokens += result.cached_tokens


class RequestCounts(msgspec.Struct, kw_only=True):
    """How many items a batch has, and how many of them ended with which status."""

    total: int
    ok: int
    error: int
    cancelled: int
    timeout: int


class ResultError(msgspec.Struct):
    """Why an item has no answer. `retryable`: the same item may succeed when it is sent again."""

    code: str
    message: str
    param: str | None
    retryable: bool


class ItemResult(msgspec.Struct, kw_only=True):
    """One entry of `results`."""

    object: Literal["batch_generation.result"] = "batch_generation.result"
    index: int
    custom_id: str | None
    prompt: Raw | UnsetType = UNSET
    status: Status
    outputs: Raw
    error: ResultError | UnsetType = UNSET
    usage: Usage
    rank: int | None
    attempts: int
    prompt_logprobs: Raw | UnsetType = UNSET
    metadata: Raw | UnsetType = UNSET


_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class ItemEnd:
    """How an item ended, for those who are told. `result` is None for one that was never answered."""

    index: int
    label: Label
    status: Status
    result: Result | None
    rank: int | None = None
    attempts: int = 0
    place: str = ""  # of the item in its request: what an error blames is below it


def encode_result(end: ItemEnd) -> bytes:
    """The JSON of one result."""
    usage, label, result = Usage(), end.label, end.result
    entry = ItemResult(
        index=end.index,
        custom_id=label.custom_id,
        status=end.status,
        outputs=NO_OUTPUTS,
        usage=usage,
        rank=end.rank,
        attempts=end.attempts,
    )
    if label.prompt is not None:
        entry.prompt = Raw(label.prompt)
    if label.metadata is not None:
        entry.metadata = Raw(label.metadata)
    if result is not None:
        usage.add(result)
        if result.outcome is Outcome.OK:
            entry.outputs = Raw(result.outputs)
        if result.prompt_logprobs is not None:
            entry.prompt_logprobs = Raw(result.prompt_logprobs)
        if result.error is not None:
            entry.error = result_error(result.error, end.place)
    return _encode(entry)


def result_error(error: ItemError, place: str) -> ResultError:
    """An item's error for a client: its param becomes the full place in the request."""
    param = f"{place}.{error.param}" if error.param and place else error.param or place or None
    return ResultError(str(error.code), error.message, param, error.code.retryable)
