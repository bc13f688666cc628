"""What parameters of an exchange pass on to the engine, with vLLM's own SamplingParams. The compiler is played."""

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.limits import ParameterLimits
from engines.vllm_engine.exchanges.gate import EngineBusy, ParameterGate, ParameterRefused
from engines.vllm_engine.exchanges.usage import CallUsage
from engines.vllm_engine.structure_work import StructureVerdict
from engines.vllm_engine.worker_limits import WorkerLimit

VOCAB_SIZE = 1000
NO_LIMITS = ParameterLimits()


class Compiler:
    """Gives each structure the same verdict."""

    def __init__(self) -> None:
        self.verdict = StructureVerdict(fields={"regex": "[ab]", "_backend": "played"})
        self.asked: list[Any] = []

    async def check(self, structure: bytes) -> StructureVerdict:
        self.asked.append(msgspec.msgpack.decode(structure))
        return self.verdict


COMPILER = Compiler()


@pytest.fixture
def compiler() -> Compiler:
    return Compiler()


def passed(compiler: Compiler = COMPILER, limits: ParameterLimits = NO_LIMITS, **fields: Any) -> Any:
    """vLLM's SamplingParams of these fields, as the application makes them, behind the gate."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

    if "structured_outputs" in fields:
        fields["structured_outputs"] = StructuredOutputsParams(**fields["structured_outputs"])
    tokenizer = SimpleNamespace(encode=lambda text, **_: [len(text)], max_token_id=VOCAB_SIZE - 1)
    gate = ParameterGate(VOCAB_SIZE, tokenizer, lambda params: params, compiler, limits)
    return asyncio.run(gate.pass_through(SamplingParams(output_kind=RequestOutputKind.DELTA, **fields)))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 3, "seed": 5, "temperature": 0.5, "top_p": 0.9, "stop": ["a"], "max_tokens": 7},
        {"logprobs": 2, "prompt_logprobs": 1, "min_tokens": 2, "stop_token_ids": [5], "max_tokens": 7},
        {"logit_bias": {5: 1.5}, "allowed_token_ids": [1, 2], "extra_args": {}},
        {"skip_special_tokens": False, "detokenize": True, "stream_interval": 2},
    ],
)
def test_parameters_within_all_limits_pass_as_they_are(fields: dict[str, Any]) -> None:
    params = passed(**fields)
    for name, value in fields.items():
        assert getattr(params, name) == value


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"extra_args": {"a": 1}}, "vllm_xargs is not served"),
        ({"extra_args": {"kv_transfer_params": {}}}, "kv_transfer_params is not served"),
        ({"routed_experts_prompt_start": 1}, "routed_experts_prompt_start is not served"),
        ({"seed": 2**63 - 1, "n": 2}, "seed is"),
        ({"seed": -2, "n": 2}, "seed is -2"),
        ({"stop_token_ids": [VOCAB_SIZE]}, "stop_token_ids has 1000"),
        ({"ignore_eos": "yes"}, "ignore_eos"),
        ({"logit_bias": {5: 1e30}}, "logit_bias"),
        ({"repetition_penalty": 1e-30}, "repetition_penalty"),
        ({"top_k": 2**40}, "top_k"),
        ({"skip_special_tokens": 5}, "skip_special_tokens"),
        ({"allowed_token_ids": list(range(2000))}, "allowed_token_ids"),
    ],
)
def test_what_an_engine_cannot_hold_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ParameterRefused, match=f"^{named}") as refused:
        passed(**fields)
    assert refused.value.parameter == named.partition(" ")[0]


def test_what_only_the_vocabulary_limits_is_held_against_it() -> None:
    with pytest.raises(WorkerLimit) as refused:
        passed(logprobs=VOCAB_SIZE + 1)
    assert refused.value.parameter == "logprobs"
    with pytest.raises(WorkerLimit) as refused:
        passed(stop_token_ids=list(range(200)), min_tokens=1, max_tokens=5)
    assert refused.value.parameter == "stop_token_ids"


@pytest.mark.parametrize(
    ("limits", "fields", "parameter"),
    [
        ({"max_n": 4}, {"n": 5}, "n"),
        ({"max_stop_strings": 2}, {"stop": ["a", "b", "c"]}, "stop"),
        ({"max_string_length": 3}, {"stop": ["abcd"]}, "stop"),
        ({"max_list_length": 2}, {"stop_token_ids": [1, 2, 3]}, "stop_token_ids"),
        ({"max_structure_length": 3}, {"structured_outputs": {"regex": "abcd"}}, "structured_outputs"),
    ],
)
def test_the_operators_limits_are_those_of_items(
    limits: dict[str, int], fields: dict[str, Any], parameter: str
) -> None:
    flag = "--" + next(iter(limits)).replace("_", "-")
    with pytest.raises(ParameterRefused, match=flag) as refused:
        passed(limits=ParameterLimits(**limits), **fields)
    assert refused.value.parameter == parameter
    assert passed(limits=ParameterLimits(**{name: limit + 1 for name, limit in limits.items()}), **fields)


def test_a_structure_is_compiled_aside_and_the_engine_gets_what_came_of_it(compiler: Compiler) -> None:
    params = passed(compiler, structured_outputs={"regex": "a|b"}, seed=7)
    assert compiler.asked == [{"regex": "a|b"}]
    assert params.structured_outputs.regex == "[ab]"
    assert params.seed == 7
    assert params.verify("nothing is verified once more") is None


def test_a_structure_that_is_refused_is_the_requests_fault_and_a_busy_compiler_is_not(compiler: Compiler) -> None:
    compiler.verdict = StructureVerdict(ItemError(ItemErrorCode.INVALID_SAMPLING_PARAMS, "it explodes"))
    with pytest.raises(ValueError, match="it explodes"):
        passed(compiler, structured_outputs={"regex": "a"})
    compiler.verdict = StructureVerdict(ItemError(ItemErrorCode.ENGINE_ERROR, "too many wait"))
    with pytest.raises(EngineBusy, match="too many wait"):
        passed(compiler, structured_outputs={"regex": "a"})


def test_the_limits_hold_beside_a_structure_too(compiler: Compiler) -> None:
    with pytest.raises(WorkerLimit):
        passed(compiler, structured_outputs={"regex": "a"}, logprobs=VOCAB_SIZE + 1)


# ---------------------------------------------------------------- usage


def output(*outputs: tuple[int, str | None], prompt: int = 0, cached: int = 0) -> Any:
    parts = [SimpleNamespace(token_ids=[0] * tokens, finish_reason=reason) for tokens, reason in outputs]
    return SimpleNamespace(prompt_token_ids=[0] * prompt, num_cached_tokens=cached, outputs=parts)


def test_usage_is_the_sum_over_requests_whether_they_put_out_what_is_new_or_all() -> None:
    usage = CallUsage()
    assert usage.is_empty
    as_new, as_all = usage.of_request(is_delta=True), usage.of_request(is_delta=False)
    for made in (output((1, None), prompt=5, cached=4), output((2, None), (1, "length")), output((1, "stop"))):
        as_new.add(made)
    as_all.add(output((3, None), (4, None), prompt=6))
    as_all.add(output((5, "length"), (6, "length"), prompt=6))
    assert not usage.is_empty
    assert (usage.prompt_tokens, usage.completion_tokens) == (11, 5 + 11)
    assert (usage.cached_tokens, usage.stopped_by_length) == (4, 3)


def test_usage_of_pooling_is_its_prompt() -> None:
    usage = CallUsage()
    usage.of_request(is_delta=False).add_pooled(SimpleNamespace(prompt_token_ids=[1, 2, 3]))
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, 0)
