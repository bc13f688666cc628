"""A batch as OpenAI's API shows it: its state, when it came to each of its states, and what has come of its lines."""

from typing import Literal

import msgspec

from app.journal.openai_records import StoredOpenAIBatch
from app.journal.records import Counts, StoredBatch, TokenUsage
from app.journal.states import BatchState
from app.openai_batches.input_line import Problem, ProblemCode


class Problems(msgspec.Struct, kw_only=True):
    """What is wrong with an input file, or why nothing of a batch in progress runs; at most 100 things are listed."""

    object: Literal["list"] = "list"
    data: list[Problem]


class LineCounts(msgspec.Struct, kw_only=True):
    """Lines of the input file: `completed` were answered with 200, `failed` with anything else."""

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
    status: str  # one of OpenAIBatchStatus
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


_decode_problems = msgspec.json.Decoder(list[Problem]).decode
_decode_metadata = msgspec.json.Decoder(dict[str, str]).decode


def shown(batch: StoredOpenAIBatch, run: StoredBatch | None) -> BatchObject:
    """A batch as it is stored, with the run that it has once its lines are being read."""
    counts, usage = (run.counts, run.usage) if run else (Counts(), TokenUsage())
    return BatchObject(
        id=batch.id,
        endpoint=batch.endpoint,
        model=run.model if run else None,
        errors=_problems(batch, run),
        input_file_id=batch.input_file_id,
        completion_window=batch.completion_window,
        status=batch.status,
        output_file_id=batch.output_file_id,
        error_file_id=batch.error_file_id,
        created_at=int(batch.created_at),
        in_progress_at=_whole(batch.in_progress_at),
        expires_at=_whole(batch.expires_at),
        finalizing_at=_whole(batch.finalizing_at),
        completed_at=_whole(batch.completed_at),
        failed_at=_whole(batch.failed_at),
        expired_at=_whole(batch.expired_at),
        cancelling_at=_whole(batch.cancelling_at),
        cancelled_at=_whole(batch.cancelled_at),
        request_counts=LineCounts(total=run.size if run else 0, completed=counts.ok, failed=counts.error),
        usage=usage_of(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens),
        metadata=_decode_metadata(batch.metadata) if batch.metadata else None,
    )


def _problems(batch: StoredOpenAIBatch, run: StoredBatch | None) -> Problems | None:
    if batch.errors:
        return Problems(data=_decode_problems(batch.errors))
    if run is not None and run.state is BatchState.HELD:
        return Problems(data=[Problem(code=ProblemCode.BATCH_HELD, line=None, message=run.reason or "it is held")])
    return None


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)


def usage_of(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> OpenAIUsage:
    """Of tokens as the journal counts them. It does not know those of reasoning."""
    return OpenAIUsage(
        input_tokens=prompt_tokens,
        input_tokens_details=InputDetails(cached_tokens=cached_tokens),
        output_tokens=completion_tokens,
        output_tokens_details=OutputDetails(),
        total_tokens=prompt_tokens + completion_tokens,
    )
