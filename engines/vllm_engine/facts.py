"""What a rank says of itself once its engine stands."""

import os
from typing import Any

from engines.contract.protocol import RankFacts
from engines.contract.spec import RankSpec
from engines.host import processes
from engines.vllm_engine import compat, pooling
from engines.vllm_engine.confinement import LANES_TITLE

WATCHED_TITLES = ("VLLM::", LANES_TITLE)  # of engine cores, workers and the coordinator, and of our own


def rank_facts(spec: RankSpec, version: str, config: Any, exchanges: list[str]) -> RankFacts:  # Any: vLLM's VllmConfig
    """The facts, and the processes that have to live as long as the rank."""
    model, parallel = config.model_config, config.parallel_config
    return RankFacts(
        engine=f"vllm {version}",
        model=spec.model,
        is_moe=compat.is_moe(model),
        expert_parallel=bool(parallel.enable_expert_parallel),
        data_parallel_size=parallel.data_parallel_size,
        tensor_parallel_size=parallel.tensor_parallel_size,
        max_model_len=model.max_model_len,
        max_num_seqs=config.scheduler_config.max_num_seqs,
        max_num_batched_tokens=config.scheduler_config.max_num_batched_tokens,
        kv_cache_tokens=compat.cache_tokens(config),
        vocab_size=model.get_vocab_size(),
        dtype=str(model.dtype).removeprefix("torch."),
        device=spec.device,
        processes=_watched(),
        exchanges=exchanges,
        generates=not pooling.pools(config),
        caches_prefixes=bool(config.cache_config.enable_prefix_caching),
        kv_block_tokens=max(1, int(config.cache_config.block_size or 1)),
    )


def _watched() -> dict[str, int]:
    """The processes that vLLM keeps for as long as it lives, by title. Others below the rank may come and go."""
    found: dict[str, int] = {}
    for process in processes.descendants(os.getpid()):
        name = processes.title(process)
        if name.startswith(WATCHED_TITLES):
            found[name] = process.pid
    return found
