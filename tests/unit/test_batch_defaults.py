"""How many sequences a rank on a GPU runs at once, and how large weights are before they are loaded."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rank_specs import rank_spec
from structlog.testing import capture_logs

from engines.contract.spec import GroupKind, RankSpec
from engines.contract.tuned import sequence_arguments
from engines.vllm_engine.arguments import engine_arguments
from engines.vllm_engine.batch_defaults import FEWER, MANY, choose
from engines.vllm_engine.configuring import say_defaults
from engines.vllm_engine.weights import Weights, read_weights

GIB = 1 << 30
POWERMOE_3B = Weights(expert_bytes=6_039_797_760, shared_bytes=557_779_968)


def config(
    *,
    dp_size: int = 1,
    tp_size: int = 1,
    utilization: float = 0.9,
    cache: int | None = None,
    step_tokens: int = 16384,
    **model: Any,
) -> Any:
    """The parts of vLLM's own configuration that matter, of PowerMoE-3b unless told otherwise."""
    shape = {"layers": 32, "kv_heads": 8, "head_size": 64, "use_mla": False, "max_model_len": 4096} | model
    return SimpleNamespace(
        model_config=SimpleNamespace(
            get_num_layers=lambda _: shape["layers"],
            get_num_kv_heads=lambda parallel: max(1, shape["kv_heads"] // parallel.tensor_parallel_size),
            get_head_size=lambda: shape["head_size"],
            use_mla=shape["use_mla"],
            max_model_len=shape["max_model_len"],
            dtype=SimpleNamespace(itemsize=2),
        ),
        parallel_config=SimpleNamespace(
            tensor_parallel_size=tp_size,
            pipeline_parallel_size=1,
            data_parallel_size=dp_size,
            enable_expert_parallel=dp_size > 1,
        ),
        scheduler_config=SimpleNamespace(max_num_batched_tokens=step_tokens, prefill_schedule_interval=1),
        cache_config=SimpleNamespace(
            gpu_memory_utilization=utilization,
            kv_cache_memory_bytes=cache,
            cache_dtype="auto",
            enable_prefix_caching=True,
        ),
        compilation_config=SimpleNamespace(cudagraph_capture_sizes=[1, 2, 4, 1024]),
    )


def test_a_small_model_on_a_large_gpu_runs_a_thousand_sequences_with_graphs_for_them() -> None:
    choice = choose(config(), POWERMOE_3B, 80 * GIB)
    assert choice.arguments["max_num_seqs"] == MANY
    assert max(choice.arguments["compilation_config"]["cudagraph_capture_sizes"]) == 2 * MANY
    assert "sequences of 256 + 256 tokens" in choice.reason


def test_a_cache_that_the_operator_has_sized_counts_as_it_is() -> None:
    choice = choose(config(utilization=0.1, cache=32 * GIB), POWERMOE_3B, 80 * GIB)
    assert choice.max_num_seqs == MANY and choice.reason.startswith("32.0 GiB of KV cache hold 524288 tokens")
    assert choose(config(cache=31 * GIB), POWERMOE_3B, 80 * GIB).max_num_seqs == FEWER


def test_a_cache_that_would_preempt_gets_half_as_many() -> None:
    of_8b = config(layers=32, kv_heads=8, head_size=128)
    assert choose(of_8b, Weights(0, 16 * GIB), 80 * GIB).arguments == sequence_arguments(FEWER, "cuda")
    assert choose(config(utilization=0.42), POWERMOE_3B, 80 * GIB).max_num_seqs == FEWER


def test_weights_that_do_not_fit_leave_no_cache() -> None:
    assert choose(config(), Weights(0, 140 * GIB), 80 * GIB).max_num_seqs == FEWER
    assert "hold 0 tokens" in choose(config(), Weights(0, 140 * GIB), 80 * GIB).reason


def test_experts_are_spread_over_a_group_and_everything_over_a_ranks_workers() -> None:
    large = Weights(expert_bytes=60 * GIB, shared_bytes=4 * GIB)
    assert choose(config(), large, 80 * GIB).max_num_seqs == FEWER
    assert choose(config(dp_size=4), large, 80 * GIB).max_num_seqs == MANY
    assert choose(config(tp_size=4), large, 80 * GIB).max_num_seqs == MANY


def test_short_contexts_need_less_cache() -> None:
    of_8b = {"layers": 32, "kv_heads": 8, "head_size": 128}
    assert choose(config(**of_8b, max_model_len=256), Weights(0, 16 * GIB), 80 * GIB).max_num_seqs == MANY


def test_a_model_of_unknown_size_gets_fewer_and_says_why() -> None:
    choice = choose(config(), None, 80 * GIB)
    assert choice.max_num_seqs == FEWER
    assert "not known" in choice.reason


@pytest.mark.parametrize(("step_tokens", "sequences"), [(256, 256), (512, FEWER), (1023, FEWER), (1024, MANY)])
def test_a_step_has_a_token_of_each_sequence(step_tokens: int, sequences: int) -> None:
    assert choose(config(step_tokens=step_tokens), POWERMOE_3B, 80 * GIB).max_num_seqs == sequences


def test_a_model_without_attention_gets_fewer() -> None:
    assert choose(config(head_size=0), POWERMOE_3B, 80 * GIB).max_num_seqs == FEWER


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"enforce_eager": True, "max_num_batched_tokens": 256}, 256),
        ({"max_num_seqs": 64}, 64),
        ({"enforce_eager": True}, FEWER),
        ({"compilation_config": {"level": 3}}, FEWER),
        ({"block_size": 32}, None),
    ],
)
def test_what_an_operator_sets_wins(given: dict[str, Any], expected: int | None) -> None:
    spec = rank_spec(device="cuda", engine_args=given)
    assert engine_arguments(spec).get("max_num_seqs") == expected


@pytest.mark.parametrize(
    ("given", "graphs"),
    [
        ({"max_num_seqs": 2048}, sequence_arguments(2048, "cuda")["compilation_config"]),
        ({"max_num_seqs": 256}, None),  # vLLM makes them by itself
        ({"max_num_seqs": 2048, "enforce_eager": True}, None),
        ({"max_num_seqs": 2048, "max_cudagraph_capture_size": 512}, None),
        ({"max_num_seqs": 2048, "speculative_config": {"method": "ngram"}}, None),
        ({"max_num_seqs": 2048, "compilation_config": {"level": 3}}, {"level": 3}),
    ],
)
def test_graphs_suit_the_sequences_that_an_operator_sets(given: dict[str, Any], graphs: Any) -> None:
    assert engine_arguments(rank_spec(device="cuda", engine_args=given)).get("compilation_config") == graphs


def write_checkpoint(file: Path, **sizes: int) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, size in sizes.items():
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}
        end += size
    encoded = json.dumps(header).encode()
    file.write_bytes(len(encoded).to_bytes(8, "little") + encoded + bytes(end))


def of_folder(folder: Path) -> Any:
    """vLLM's own description of a model there, whose architecture nobody knows."""
    return SimpleNamespace(model=str(folder), revision=None, hf_text_config=None)


def test_a_checkpoint_is_what_its_index_names(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model-1.safetensors", **{"lm_head.weight": 7})
    write_checkpoint(tmp_path / "consolidated.safetensors", **{"lm_head.weight": 7})
    assert read_weights(of_folder(tmp_path)) == Weights(expert_bytes=0, shared_bytes=7)
    index = {"weight_map": {"lm_head.weight": "model-1.safetensors", "embed.weight": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_weights(of_folder(tmp_path)) is None, "one of its files is missing"
    write_checkpoint(tmp_path / "model-2.safetensors", **{"embed.weight": 5})
    assert read_weights(of_folder(tmp_path)) == Weights(expert_bytes=0, shared_bytes=12)


def test_a_checkpoints_headers_tell_its_experts_from_the_rest(tmp_path: Path) -> None:
    sizes = {
        "model.layers.0.block_sparse_moe.input_linear.weight": 400,
        "model.layers.0.mlp.experts.7.up_proj.weight": 30,
        "model.layers.0.mlp.shared_experts.up_proj.weight": 5,
        "model.layers.0.block_sparse_moe.router.layer.weight": 2,
        "lm_head.weight": 1,
    }
    write_checkpoint(tmp_path / "model.safetensors", **sizes)
    assert read_weights(of_folder(tmp_path)) == Weights(expert_bytes=430, shared_bytes=8)


def said(spec: RankSpec, arguments: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """The settings that the log tells, with their reasons."""
    with capture_logs() as facts:
        say_defaults(spec, arguments, config(step_tokens=4096))
    assert {fact["event"] for fact in facts} <= {"setting_chosen"}
    return {fact["setting"]: (fact["value"], fact["reason"]) for fact in facts}


def test_what_was_chosen_is_told_with_its_reason_and_what_was_given_is_not() -> None:
    on_cpu = rank_spec(device="cpu", engine_args={"max_num_seqs": 8})
    told = said(on_cpu, engine_arguments(on_cpu))
    assert {name: value for name, (value, _) in told.items()} == {
        "max_num_batched_tokens": 4096,
        "dtype": "float32",
        "enable_prefix_caching": True,
    }
    assert all(reason for _, reason in told.values())
    apart = rank_spec(device="cpu", expert_parallel=True, dp_size=2)
    assert said(apart, engine_arguments(apart))["enforce_eager"][0] is True
    on_gpu = rank_spec(device="cuda")
    assert list(said(on_gpu, engine_arguments(on_gpu))) == ["max_num_batched_tokens", "enable_prefix_caching"], (
        "sequences have a line of their own"
    )
    many = rank_spec(device="cuda", engine_args={"max_num_seqs": 512})
    assert said(many, engine_arguments(many))["cudagraph_capture_sizes"][0] == "4, to 1024 tokens"
    eager = rank_spec(device="cuda", engine_args={"enforce_eager": True})
    told = said(eager, engine_arguments(eager))
    assert told["max_num_seqs"][0] == FEWER and "graphs" in told["max_num_seqs"][1]


def test_what_is_left_to_vllm_and_matters_to_batches_is_told_too() -> None:
    uncached = rank_spec(engine_args={"enable_prefix_caching": False})
    assert "enable_prefix_caching" not in said(uncached, engine_arguments(uncached))
    assert "prefill_schedule_interval" not in said(uncached, engine_arguments(uncached)), "one rank is no group"
    group = rank_spec(group_kind=GroupKind.LOCKSTEP, dp_size=2)
    assert said(group, engine_arguments(group))["prefill_schedule_interval"][0] == 1
    told = rank_spec(group_kind=GroupKind.LOCKSTEP, dp_size=2, engine_args={"prefill_schedule_interval": 8})
    assert "prefill_schedule_interval" not in said(told, engine_arguments(told))


def test_a_step_that_had_to_be_longer_is_told_as_it_is() -> None:
    spec = rank_spec(device="cpu")
    arguments = engine_arguments(spec)
    del arguments["max_num_batched_tokens"]
    value, reason = said(spec, arguments)["max_num_batched_tokens"]
    assert value == 4096 and "cannot be split" in reason
