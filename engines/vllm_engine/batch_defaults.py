"""How many sequences a rank on a GPU runs at once, and for which steps it has CUDA graphs, where nobody says.

The limit of a batch load is the engine's Python, which costs more a step than a sequence, so more sequences are faster
as long as the KV cache holds them; vLLM preempts what it cannot hold. So a rank gets 1024 where its cache is going to
hold 1024 sequences of an expected length, and 512 elsewhere. All of that is an estimate: what the cache really holds is
known only after the weights are loaded, and then the graphs' sizes are settled.

vLLM captures graphs for steps of up to 512 tokens by itself and runs larger ones eagerly. A step has a token of each
sequence and whole prompts besides, so graphs reach to twice the sequences: on an H100, 512 sequences with answers of
many lengths were 1.8 times as fast with graphs to 1024 as with vLLM's own (bench/results/2026-11-28-h100x4-speed.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engines.contract.tuned import DECIDING_GRAPHS, DECIDING_SEQUENCES, SEQUENCES, graph_arguments, sequence_arguments
from engines.vllm_engine.weights import Weights

MANY, FEWER = 1024, 512
EXPECTED_PROMPT_TOKENS, EXPECTED_OUTPUT_TOKENS = 256, 256
EXPECTED_TOKENS = EXPECTED_PROMPT_TOKENS + EXPECTED_OUTPUT_TOKENS
WORKING_BYTES = 4 << 30  # activations of a step of 16,384 tokens, CUDA's context and the graphs themselves
GIB = 1 << 30


@dataclass(frozen=True)
class Choice:
    """So many sequences, and why, for the log."""

    max_num_seqs: int
    reason: str

    @property
    def arguments(self) -> dict[str, Any]:  # Any: vLLM's argument values
        """The engine arguments that make it so."""
        return sequence_arguments(self.max_num_seqs, "cuda")


def is_decided(given: Mapping[str, Any]) -> bool:  # Any: vLLM's argument values
    """Whether what the operator gave settles how many sequences there are, or which graphs."""
    return any(name in given for name in DECIDING_SEQUENCES)


def graphs_for(given: Mapping[str, Any]) -> dict[str, Any]:
    """The engine arguments for graphs where the operator gave the sequences, and graphs were left open.

    Any: vLLM's argument values.
    """
    sequences = given.get(SEQUENCES)
    are_decided = any(name in given for name in DECIDING_GRAPHS)
    return graph_arguments(sequences) if isinstance(sequences, int) and not are_decided else {}


def choose(config: Any, weights: Weights | None, gpu_bytes: int) -> Choice:  # Any: vLLM's VllmConfig
    """The choice for a model with these weights on GPUs with so much memory."""
    most = config.scheduler_config.max_num_batched_tokens  # a step has at least a token of each sequence
    of_token = bytes_per_token(config)
    if weights is None or not of_token:
        unknown = "the size of the model's weights" if weights is None else "what the model keeps of each token"
        return Choice(min(FEWER, most), f"{unknown} is not known before it is loaded")
    if most < MANY:
        return Choice(min(FEWER, most), f"a step has at most {most} tokens (max_num_batched_tokens)")
    cache = cache_bytes(config, weights, gpu_bytes)
    tokens = int(cache / of_token)
    said = "about " if config.cache_config.kv_cache_memory_bytes is None else ""
    holds = f"{said}{cache / GIB:.1f} GiB of KV cache hold {tokens} tokens"
    length = f"{MANY} sequences of {EXPECTED_PROMPT_TOKENS} + {EXPECTED_OUTPUT_TOKENS} tokens take"
    needed = MANY * min(EXPECTED_TOKENS, config.model_config.max_model_len)
    return Choice(MANY if tokens >= needed else FEWER, f"{holds}, {length} {needed}")


def cache_bytes(config: Any, weights: Weights, gpu_bytes: int) -> float:  # Any: vLLM's VllmConfig
    """What the operator gives to the KV cache of a rank on one GPU, or else about what is left for it."""
    if config.cache_config.kv_cache_memory_bytes is not None:
        return float(config.cache_config.kv_cache_memory_bytes)
    given = gpu_bytes * config.cache_config.gpu_memory_utilization
    return max(0.0, float(given - resident_bytes(weights, config.parallel_config) - WORKING_BYTES))


def resident_bytes(weights: Weights, parallel: Any) -> float:  # Any: vLLM's ParallelConfig
    """What of the weights lies on one GPU: experts are spread over all ranks of a lock-step group."""
    workers = parallel.tensor_parallel_size * parallel.pipeline_parallel_size
    owners = workers * (parallel.data_parallel_size if parallel.enable_expert_parallel else 1)
    return float(weights.shared_bytes / workers + weights.expert_bytes / owners)


def bytes_per_token(config: Any) -> float:  # Any: vLLM's VllmConfig
    """KV cache of one token on one GPU, as if every layer were one of full attention: no less than it takes."""
    model, parallel = config.model_config, config.parallel_config
    layers, heads = model.get_num_layers(parallel), model.get_num_kv_heads(parallel)
    of_head = model.get_head_size() * (1 if model.use_mla else 2)  # keys and values, unless they are one latent
    width = 1 if "fp8" in str(config.cache_config.cache_dtype) else model.dtype.itemsize
    return float(layers * heads * of_head * width)
