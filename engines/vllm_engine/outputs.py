"""From vLLM's RequestOutput to a Result: the outputs are encoded to JSON here, once, and never parsed again."""

import asyncio
from concurrent.futures import Executor
from typing import Any

import msgspec

from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.protocol import Outcome, Result, RunItem
from engines.vllm_engine.output_checks import OutputChecker

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


class ResultMaker:
    """Makes results. Outputs under a structure are judged first; what is large is encoded beside the loop."""

    def __init__(self, aside: Executor, checker: OutputChecker) -> None:
        self._aside = aside
        self._checker = checker

    async def make(self, item: RunItem, sampling: Any, final: Any, is_large: bool) -> Result:  # Any: vLLM's own
        """The result of an attempt that came to its end by itself."""
        use = sampling.structure_use
        if use is not None and (error := await self._checker.error(use, final.outputs)) is not None:
            return _refused(item.attempt, final, error)
        if not is_large:
            return to_result(item.attempt, final, item.return_token_ids)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._aside, to_result, item.attempt, final, item.return_token_ids)


def _refused(attempt: int, final: Any, error: ItemError) -> Result:
    """What it took is told, what came out is not."""
    return Result(
        attempt,
        Outcome.ERROR,
        prompt_tokens=len(final.prompt_token_ids or ()),
        completion_tokens=sum(len(output.token_ids) for output in final.outputs),
        cached_tokens=final.num_cached_tokens or 0,
        error=error,
    )


def to_result(attempt: int, final: Any, return_token_ids: bool) -> Result:  # Any: vLLM's RequestOutput
    """The outputs as they are. An end that nobody asked for is a lost attempt."""
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
