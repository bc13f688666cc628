"""What comes out of a batch, as a program reads it. Fields of a later service that are not here are passed over."""

from typing import Any, Literal

import msgspec

from phalanx.client.errors import ItemFailed


class Output(msgspec.Struct, frozen=True):
    """One of an item's answers; there are several with `n`."""

    index: int
    text: str
    finish_reason: str | None = None  # "stop" or "length"
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None  # with return_token_ids
    logprobs: Any = None  # Any: as vLLM has them, with logprobs


class ResultError(msgspec.Struct, frozen=True):
    """Why an item has no answer. `retryable`: the same item may succeed when it is sent again."""

    code: str
    message: str
    param: str | None = None
    retryable: bool = False


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """How many of the prompt's tokens came from the prefix cache."""

    cached_tokens: int = 0


class Usage(msgspec.Struct, frozen=True):
    """Tokens of an item, or of a batch."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()


class Result(msgspec.Struct, frozen=True, tag_field="object", tag="batch_generation.result"):
    """What became of one prompt. `index` is its place among the prompts, from 0.

    `seq` is its place among the results of a detached batch: reading goes on after it.
    """

    index: int
    status: Literal["ok", "error", "cancelled", "timeout"]
    outputs: list[Output]
    usage: Usage
    custom_id: str | None = None
    error: ResultError | None = None
    rank: int | None = None
    attempts: int = 0
    prompt: Any = None  # Any: text, token ids or messages, with return_prompt
    prompt_logprobs: Any = None  # Any: as vLLM has them
    metadata: Any = None  # Any: JSON, as it was given
    seq: int | None = None

    @property
    def ok(self) -> bool:
        """Whether it has an answer."""
        return self.status == "ok"

    @property
    def text(self) -> str:
        """Of the first output. Raises ItemFailed where there is none."""
        if self.outputs:
            return self.outputs[0].text
        error = self.error or ResultError(self.status, f"the item ended as {self.status}", retryable=True)
        raise ItemFailed(f"item {self.index}: {error.message}", code=error.code, retryable=error.retryable)


class Counts(msgspec.Struct, frozen=True):
    """Items by their status."""

    total: int = 0
    ok: int = 0
    error: int = 0
    cancelled: int = 0
    timeout: int = 0


class Progress(msgspec.Struct, frozen=True, tag_field="object", tag="batch_generation.progress"):
    """How far a batch is. The last five are there for a detached one; `reason` says why it is held."""

    id: str
    request_counts: Counts
    running: int = 0
    waiting: int = 0
    status: str | None = None
    reason: str | None = None
    last_seq: int = 0
    tokens_per_s: float | None = None
    predicted_s_left: float | None = None


class Summary(msgspec.Struct, frozen=True, tag_field="object", tag="batch_generation.summary"):
    """The end of a batch. `stats` has wall and queue time in seconds, and the items, tokens and busy time of ranks.

    `status` and `reason` are there for a detached one; it may have ended before it began, and then has no stats.
    """

    id: str
    model: str
    created_at: int
    request_counts: Counts
    usage: Usage
    stats: dict[str, Any] | None  # Any: JSON
    status: str | None = None
    reason: str | None = None


class FailureReason(msgspec.Struct, frozen=True):
    """As the error of a request."""

    message: str
    code: str | None = None


class Failure(msgspec.Struct, frozen=True, tag_field="object", tag="batch_generation.error"):
    """The end of a batch whose prompts could not all be taken in."""

    id: str
    error: FailureReason


Line = Result | Progress | Summary | Failure
