"""What a request's ``sampling_params`` may hold: vLLM's SamplingParams by name, on an allow-list, typed strictly.

A mistyped field that reaches vLLM's engine core kills its input thread without a word, so nothing passes that was
not converted to these types first. A field that is absent follows the model's generation_config; JSON null is the
same as absence.
"""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
INT32_MAX = 2**31 - 1

Seed = Annotated[int, Meta(ge=INT64_MIN, le=INT64_MAX)]
Count = Annotated[int, Meta(ge=0, le=INT32_MAX)]
TokenId = Annotated[int, Meta(ge=0, le=INT32_MAX)]
SomeTokenIds = Annotated[list[TokenId], Meta(min_length=1)]
LogprobCount = Annotated[int, Meta(ge=-1, le=INT32_MAX)]


class StructuredOutputs(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """vLLM's StructuredOutputsParams: exactly one constraint of the first six."""

    json: str | dict[str, Any] | UnsetType = UNSET  # Any: a JSON schema
    regex: str | UnsetType = UNSET
    choice: Annotated[list[str], Meta(min_length=1)] | UnsetType = UNSET
    grammar: str | UnsetType = UNSET
    json_object: bool | UnsetType = UNSET
    structural_tag: str | UnsetType = UNSET
    disable_any_whitespace: bool | UnsetType = UNSET
    disable_additional_properties: bool | UnsetType = UNSET
    whitespace_pattern: str | UnsetType = UNSET


class RepetitionDetection(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """vLLM's RepetitionDetectionParams: ends a generation that repeats an N-gram pattern."""

    # vLLM compares all patterns of all sizes with every token of every sequence, between two steps.
    max_pattern_size: Annotated[int, Meta(ge=0, le=64)] | UnsetType = UNSET
    min_pattern_size: Annotated[int, Meta(ge=0, le=64)] | UnsetType = UNSET
    min_count: Annotated[int, Meta(ge=0, le=16)] | UnsetType = UNSET


class SamplingFields(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """The public fields of vLLM's SamplingParams, 0.26 to 0.33. Ranges that vLLM checks itself are left to it."""

    n: Annotated[int, Meta(ge=1, le=INT32_MAX)] | UnsetType = UNSET
    presence_penalty: float | UnsetType = UNSET
    frequency_penalty: float | UnsetType = UNSET
    repetition_penalty: float | UnsetType = UNSET
    temperature: float | UnsetType = UNSET
    top_p: float | UnsetType = UNSET
    top_k: Annotated[int, Meta(ge=-1, le=INT32_MAX)] | UnsetType = UNSET
    min_p: float | UnsetType = UNSET
    seed: Seed | UnsetType = UNSET
    stop: str | list[str] | UnsetType = UNSET
    stop_token_ids: list[TokenId] | UnsetType = UNSET
    bad_words: list[str] | UnsetType = UNSET
    include_stop_str_in_output: bool | UnsetType = UNSET
    ignore_eos: bool | UnsetType = UNSET
    max_tokens: Annotated[int, Meta(ge=1, le=INT32_MAX)] | UnsetType = UNSET
    min_tokens: Count | UnsetType = UNSET
    logprobs: LogprobCount | UnsetType = UNSET
    prompt_logprobs: LogprobCount | UnsetType = UNSET
    logprob_token_ids: SomeTokenIds | UnsetType = UNSET
    flat_logprobs: bool | UnsetType = UNSET
    detokenize: bool | UnsetType = UNSET
    skip_special_tokens: bool | UnsetType = UNSET
    spaces_between_special_tokens: bool | UnsetType = UNSET
    structured_outputs: StructuredOutputs | UnsetType = UNSET
    logit_bias: dict[TokenId, float] | UnsetType = UNSET
    allowed_token_ids: SomeTokenIds | UnsetType = UNSET
    skip_reading_prefix_cache: bool | UnsetType = UNSET
    thinking_token_budget: Annotated[int, Meta(ge=-1, le=INT32_MAX)] | UnsetType = UNSET
    repetition_detection: RepetitionDetection | UnsetType = UNSET
    watermarking: bool | UnsetType = UNSET


# Fields of vLLM's SamplingParams that are refused by name, with the reason a user reads.
REFUSED_FIELDS = {
    "output_kind": "the service chooses it: every answer is the final one",
    "stream_interval": "the service chooses it: every answer is the final one",
    "skip_clone": "it is internal to vLLM",
    "extra_args": "it reaches engine plugins unchecked",
    "output_text_buffer_length": "it is internal to vLLM",
    "routed_experts_prompt_start": "it is for debugging vLLM",
    "prompt_logprob_token_ids": "it is for scoring at the engine level",
    "prompt_logprob_start": "it is for scoring at the engine level",
}


def refusal(name: str) -> str | None:
    """Why the field `name` is refused although vLLM has it, or None."""
    if name in REFUSED_FIELDS:
        return REFUSED_FIELDS[name]
    if name.startswith("trace_"):
        return "it is for debugging vLLM"
    if name.startswith("_"):
        return "it is internal to vLLM"
    return None
