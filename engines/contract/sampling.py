"""What a request's ``sampling_params`` may hold: vLLM's SamplingParams by name, on an allow-list, typed strictly.

A mistyped field that reaches vLLM's engine core kills its input thread without a word, so nothing passes that was
not converted to these types first. Nor does a value pass that vLLM's workers cannot hold: on GPUs they keep
parameters as 64-bit and 32-bit numbers and in lists of a fixed length, and one that does not fit ends the engine with
all that it runs. The limits are the same on every device. A field that is absent follows the model's
generation_config; JSON null is the same as absence.
"""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
INT32_MAX = 2**31 - 1
NO_SEED = -1  # vLLM's word for none
# Real numbers become 32-bit floats. Within these bounds nothing that is reckoned from them overflows or becomes 0.
TINIEST, LARGEST = 1e-9, 1e9

Seed = Annotated[int, Meta(ge=INT64_MIN, le=INT64_MAX)]
Count = Annotated[int, Meta(ge=0, le=INT32_MAX)]
TokenId = Annotated[int, Meta(ge=0, le=INT32_MAX)]
LogprobCount = Annotated[int, Meta(ge=-1, le=INT32_MAX)]
Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]
Bias = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]


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
    """The public fields of vLLM's SamplingParams, 0.26 to 0.33.

    What is too much for the engine of this model only is left to that engine.
    """

    n: Annotated[int, Meta(ge=1, le=INT32_MAX)] | UnsetType = UNSET
    presence_penalty: Penalty | UnsetType = UNSET
    frequency_penalty: Penalty | UnsetType = UNSET
    repetition_penalty: Annotated[float, Meta(ge=TINIEST, le=LARGEST)] | UnsetType = UNSET
    temperature: Annotated[float, Meta(ge=0.0, le=LARGEST)] | UnsetType = UNSET
    top_p: Annotated[float, Meta(ge=TINIEST, le=1.0)] | UnsetType = UNSET
    top_k: Annotated[int, Meta(ge=-1, le=INT32_MAX)] | UnsetType = UNSET
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] | UnsetType = UNSET
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
    logprob_token_ids: Annotated[list[TokenId], Meta(min_length=1, max_length=128)] | UnsetType = UNSET
    flat_logprobs: bool | UnsetType = UNSET
    detokenize: bool | UnsetType = UNSET
    skip_special_tokens: bool | UnsetType = UNSET
    spaces_between_special_tokens: bool | UnsetType = UNSET
    structured_outputs: StructuredOutputs | UnsetType = UNSET
    logit_bias: Annotated[dict[TokenId, Bias], Meta(max_length=1024)] | UnsetType = UNSET
    allowed_token_ids: Annotated[list[TokenId], Meta(min_length=1, max_length=1024)] | UnsetType = UNSET
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


def seed_refusal(seed: int, n: int) -> str | None:
    """Why `n` outputs cannot run from `seed`, or None. vLLM gives them this seed, the next one, and so on."""
    last = seed + n - 1
    if last > INT64_MAX:
        return f"seed is {seed} and n is {n}: the last output's seed would have more than 64 bits, choose a lower seed"
    if seed < NO_SEED <= last:
        return f"seed is {seed} and n is {n}: one output's seed would be {NO_SEED}, which is none, choose another seed"
    return None
