"""From vLLM's RequestOutput to a Result: the outputs are encoded to JSON here, once, and never parsed again."""

from typing import Any

import msgspec

from engines.contract.protocol import ItemError, ItemErrorCode, Outcome, Result

LOWEST_LOGPROB = -9999.0  # JSON has neither -inf nor NaN; vLLM's own server writes the same number
LOST_REASONS = ("abort", "error")  # an end that nobody asked for is a lost attempt, never an answer


class TokenLogprob(msgspec.Struct, omit_defaults=True):
    """One candidate token at one position."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


class Output(msgspec.Struct, omit_defaults=True):
    """One generated sequence, as a user reads it."""

    index: int
    text: str
    finish_reason: str | None
    stop_reason: int | str | None
    token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    logprobs: list[dict[int, TokenLogprob] | None] | msgspec.UnsetType = msgspec.UNSET


_encode = msgspec.json.Encoder().encode


def to_result(attempt: int, final: Any, return_token_ids: bool) -> Result:  # Any: vLLM's RequestOutput
    """The result of an attempt that came to its end by itself."""
    outputs = final.outputs
    if any(output.finish_reason in LOST_REASONS for output in outputs):
        reason = next(output.finish_reason for output in outputs if output.finish_reason in LOST_REASONS)
        error = ItemError(ItemErrorCode.ENGINE_ERROR, f"the engine ended the generation with {reason!r}")
        return Result(attempt, Outcome.LOST, error=error)
    prompt_logprobs = final.prompt_logprobs
    return Result(
        attempt,
        Outcome.OK,
        outputs=_encode([_output(output, return_token_ids) for output in outputs]),
        prompt_tokens=len(final.prompt_token_ids or ()),
        completion_tokens=sum(len(output.token_ids) for output in outputs),
        cached_tokens=final.num_cached_tokens or 0,
        stopped_by_length=sum(output.finish_reason == "length" for output in outputs),
        prompt_logprobs=None if prompt_logprobs is None else _encode(_positions(prompt_logprobs)),
    )


def _output(output: Any, return_token_ids: bool) -> Output:
    return Output(
        index=output.index,
        text=output.text,
        finish_reason=output.finish_reason,
        stop_reason=output.stop_reason,
        token_ids=list(output.token_ids) if return_token_ids else msgspec.UNSET,
        logprobs=msgspec.UNSET if output.logprobs is None else _positions(output.logprobs),
    )


def _positions(logprobs: Any) -> list[dict[int, TokenLogprob] | None]:
    """Per position, token id -> logprob; None where there is none, as for the first token of a prompt."""
    return [position and {token: _candidate(entry) for token, entry in position.items()} for position in logprobs]


def _candidate(entry: Any) -> TokenLogprob:
    logprob = float(entry.logprob)  # NaN where parameters forbade every token: it is greater than nothing
    return TokenLogprob(logprob if logprob > LOWEST_LOGPROB else LOWEST_LOGPROB, entry.rank, entry.decoded_token)
