"""A batch as OpenAI's API shows it: its state, when it came to each of its states, and what has come of its lines."""

from enum import StrEnum
from typing import Literal

import msgspec

from app.openai_batches.input_line import Problem


class OpenAIBatchStatus(StrEnum):
    """Where a batch stands, in OpenAI's words."""

    VALIDATING = "validating"  # its input file is being read
    FAILED = "failed"  # something is wrong with the file: nothing of it runs, and `errors` says what
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"  # every line has its answer; the last ones are being written
    COMPLETED = "completed"  # also when all lines have failed
    EXPIRED = "expired"  # its completion window was over; what was finished is kept
    CANCELLING = "cancelling"  # nothing more of it is started
    CANCELLED = "cancelled"  # what was finished is kept


class Problems(msgspec.Struct, kw_only=True):
    """What is wrong with an input file; at most so many things are listed."""

    object: Literal["list"] = "list"
    data: list[Problem]


class LineCounts(msgspec.Struct, kw_only=True):
    """Lines of the input file: `completed` were answered with 200, `failed` with anything else, or not at all."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class InputDetails(msgspec.Struct, kw_only=True):
    """Of the tokens of prompts."""

    cached_tokens: int = 0


class OutputDetails(msgspec.Struct, kw_only=True):
    """Of the tokens of answers."""

    reasoning_tokens: int = 0


class OpenAIUsage(msgspec.Struct, kw_only=True):
    """Tokens of all answers together."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class BatchObject(msgspec.Struct, kw_only=True):
    """Times are Unix seconds; each is null until the batch comes to that state, and `expires_at` is its deadline."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: Problems | None
    input_file_id: str
    completion_window: str
    status: OpenAIBatchStatus
    output_file_id: str | None  # there from `in_progress` on; in the end null if no line was answered with 200
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: LineCounts
    usage: OpenAIUsage
    metadata: dict[str, str] | None


def usage_of(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> OpenAIUsage:
    """Of tokens as the journal counts them. It does not know those of reasoning."""
    return OpenAIUsage(
        input_tokens=prompt_tokens,
        input_tokens_details=InputDetails(cached_tokens=cached_tokens),
        output_tokens=completion_tokens,
        output_tokens_details=OutputDetails(),
        total_tokens=prompt_tokens + completion_tokens,
    )
