"""Why an item has no answer, in codes that gateway, ranks and users share."""

from enum import StrEnum

import msgspec


class ItemErrorCode(StrEnum):
    """The closed list of an item's error codes. `retryable` says whether the same item may succeed later."""

    INVALID_PROMPT = "invalid_prompt"
    INVALID_SAMPLING_PARAMS = "invalid_sampling_params"
    INVALID_STRUCTURED_OUTPUT = "invalid_structured_output"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    DUPLICATE_CUSTOM_ID = "duplicate_custom_id"
    POISONED = "poisoned"
    RANK_LOST = "rank_lost"
    ENGINE_ERROR = "engine_error"
    SHUTTING_DOWN = "shutting_down"

    @property
    def retryable(self) -> bool:
        return self in RETRYABLE


RETRYABLE = frozenset(
    {
        ItemErrorCode.INVALID_STRUCTURED_OUTPUT,
        ItemErrorCode.RANK_LOST,
        ItemErrorCode.ENGINE_ERROR,
        ItemErrorCode.SHUTTING_DOWN,
    }
)


class ItemError(msgspec.Struct, array_like=True, frozen=True):
    """Why one item has no answer. `param` is relative to the item, as in ``sampling_params.top_p``."""

    code: ItemErrorCode
    message: str
    param: str | None = None
