"""Nothing is answered as what a structure asks for that is not: the rank's end of judging outputs.

A text that ended by itself is judged whole. One that max_tokens or a stop of the client's cut is as whole as it was
asked to be. Judging happens in a lane of its own (confinement.py), within limits: a text may be as long as the context,
and a schema may make work of it. A structure whose texts took too much is not judged again, and none of them passes.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from engines import tasks
from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.sampling import SamplingFields
from engines.vllm_engine import compat, output_work
from engines.vllm_engine.bounded_cache import BoundedCache
from engines.vllm_engine.confinement import LANES_TITLE, Answer, Lane, LaneDied, Outcome
from engines.vllm_engine.output_work import Fault, Finding, Judgement, OutputToJudge
from engines.vllm_engine.structure_options import PARAM

TEXTS_CPU_S = 1.0  # for the texts of one item; those of 500 KiB take a few hundredths
MEMORY_BYTES = 1024 * 1024 * 1024  # beyond what the rank had imported
# What keeps tokens from a model, or keeps it from ending, and may leave nothing that a structure allows. A logit_bias
# does not: it is a finite number, and what a structure forbids has none.
LIMITING = ("allowed_token_ids", "bad_words", "min_tokens", "ignore_eos", "stop_token_ids")
# The engine alone knows their language, and some of their tokens are in no text.
JUDGED_BY_TOKENS = ("grammar", "structural_tag")
_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True)
class StructureUse:
    """A structure in an item's parameters, and what goes with it."""

    structure: bytes  # msgpack-encoded, as it came
    own_stop_token_ids: frozenset[int]
    limiting: tuple[str, ...]  # of LIMITING, those that are set
    by_tokens: bool
    min_tokens: int = 0

    @classmethod
    def of(cls, fields: SamplingFields) -> "StructureUse | None":
        """None for parameters without a structure."""
        structure = fields.structured_outputs
        if structure is msgspec.UNSET:
            return None
        given = {name: getattr(fields, name) for name in LIMITING}
        limiting = tuple(name for name, value in given.items() if value is not msgspec.UNSET and value)
        stops = () if fields.stop_token_ids is msgspec.UNSET else fields.stop_token_ids
        by_tokens = bool(limiting) or any(getattr(structure, name) is not msgspec.UNSET for name in JUDGED_BY_TOKENS)
        min_tokens = 0 if fields.min_tokens is msgspec.UNSET else fields.min_tokens
        return cls(_encode(structure), frozenset(stops), limiting, by_tokens, min_tokens)


class OutputChecker:
    """Asks the lane. `eos` is the id of the token that ends a text.

    Where texts begin with a model's reasoning, which no structure holds, none is judged.
    """

    def __init__(
        self, lane: Lane, cpu_s: float, eos: int | None, died: Callable[[str], None], has_reasoning: bool = False
    ) -> None:
        self._lane = lane
        self._has_reasoning = has_reasoning
        self._cpu_s = cpu_s
        self._eos = eos
        self._died = died
        self._too_much: BoundedCache[ItemError] = BoundedCache()  # by the structure
        self._asking: set[asyncio.Task[ItemError | None]] = set()

    async def error(self, use: StructureUse, outputs: list[Any]) -> ItemError | None:  # Any: vLLM's CompletionOutput
        """Why these outputs are no answer; None when they are, as far as they can be judged."""
        if self._has_reasoning:
            return None
        for number, output in enumerate(outputs):
            if _ended_by_itself(output, use.own_stop_token_ids) and len(output.token_ids) <= use.min_tokens:
                return _error_of(Finding(number, Fault.TOKENS, f"after {len(output.token_ids) - 1} tokens"), use)
        asked = [self._to_judge(use, output) for output in outputs]
        if all(output.text is None and output.tokens is None for output in asked):
            return None
        known = self._too_much.get(use.structure)
        if known is not None:
            return known
        task = tasks.awaited(self._ask(use, Judgement(use.structure, asked)), "judge outputs")
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return await asyncio.shield(task)

    def close(self) -> None:
        """Ends the lane."""
        self._lane.close()

    def _to_judge(self, use: StructureUse, output: Any) -> OutputToJudge:
        is_whole = _ended_by_itself(output, use.own_stop_token_ids)
        tokens: list[int] | None = None
        if use.by_tokens or output.finish_reason == "error":
            tokens = list(output.token_ids)
            if output.finish_reason == "stop" and not isinstance(output.stop_reason, str):
                # Whichever token ended it: the structure knows of one.
                tokens[-1:] = [self._eos] if is_whole and self._eos is not None else []
        return OutputToJudge(output.text if is_whole else None, tokens)

    async def _ask(self, use: StructureUse, judgement: Judgement) -> ItemError | None:
        # Tokens need the structure compiled once more.
        cpu_s = self._cpu_s if any(output.tokens for output in judgement.outputs) else min(self._cpu_s, TEXTS_CPU_S)
        try:
            async with self._lane.turn:
                answer = await self._lane.ask(_encode(judgement), cpu_s)
        except LaneDied as error:
            self._died(str(error))
            return ItemError(ItemErrorCode.ENGINE_ERROR, str(error))
        return self._error(use, answer, cpu_s)

    def _error(self, use: StructureUse, answer: Answer, cpu_s: float) -> ItemError | None:
        match answer.outcome:
            case Outcome.DONE:
                finding: Finding | None = msgspec.msgpack.decode(answer.data, type=Finding | None)
                return None if finding is None else _error_of(finding, use)
            case Outcome.FAILED:
                return ItemError(ItemErrorCode.ENGINE_ERROR, answer.data.decode(), PARAM)
            case Outcome.STARVED:
                why = "no CPU time was left to judge the output: send the item again later"
                return ItemError(ItemErrorCode.ENGINE_ERROR, f"structured_outputs: {why}", PARAM)
            case Outcome.TIME | Outcome.MEMORY | Outcome.CRASHED:
                why = f"judging an output takes more than {cpu_s:g} s of CPU time, or too much memory"
                message = f"structured_outputs: {why}; use a simpler one"
                error = ItemError(ItemErrorCode.INVALID_SAMPLING_PARAMS, message, PARAM)
                if answer.outcome is not Outcome.CRASHED:  # which somebody from outside may have brought about
                    self._too_much.put(use.structure, error)
                return error


def _ended_by_itself(output: Any, own_stop_token_ids: frozenset[int]) -> bool:
    """Whether the model ended the text. It may have done so with a token that is a stop of the model's own."""
    reason = output.stop_reason
    is_clients = isinstance(reason, str) or reason in own_stop_token_ids
    return bool(output.finish_reason == "stop" and not is_clients)


def _error_of(finding: Finding, use: StructureUse) -> ItemError:
    output = f"outputs[{finding.output}]"
    if finding.fault is Fault.TEXT:
        return ItemError(ItemErrorCode.INVALID_STRUCTURED_OUTPUT, f"the text of {output} {finding.why}", PARAM)
    if not use.limiting:
        why = f"{output} leaves the structure {finding.why}"
        return ItemError(ItemErrorCode.INVALID_STRUCTURED_OUTPUT, why, PARAM)
    names = ", ".join(use.limiting)
    why = f"together with {names} it allows no token for {output} {finding.why}; leave one of them out"
    return ItemError(ItemErrorCode.INVALID_SAMPLING_PARAMS, f"structured_outputs: {why}", PARAM)


def start_output_checker(rank: int, config: Any, cpu_s: float, died: Callable[[str], None]) -> OutputChecker:
    """A checker with a lane of its own, forked before the rank has threads of an engine. Any: vLLM's VllmConfig"""
    from vllm.tokenizers import cached_tokenizer_from_config

    def prepare() -> Callable[[bytes], bytes]:
        return output_work.prepare(config)

    eos = cached_tokenizer_from_config(model_config=config.model_config).eos_token_id
    lane = Lane(f"{LANES_TITLE} {rank} outputs", prepare, MEMORY_BYTES)
    return OutputChecker(lane, cpu_s, eos, died, compat.holds_after_reasoning_only(config))
