"""Counts the engine's steps: a step is one record with scheduler statistics. An idle lock-step rank makes none."""

from typing import Any

from engines.rank.engine import EngineLoad


def step_recorder(load: EngineLoad) -> Any:  # Any: a vLLM StatLoggerFactory
    """A stat logger factory for AsyncLLM that keeps `load` up to date. Imports vllm."""
    from vllm.v1.metrics.loggers import StatLoggerBase

    class StepRecorder(StatLoggerBase):  # type: ignore[misc]  # vllm is untyped
        """vLLM calls `record` once per engine step, and once per finished wave without scheduler statistics."""

        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            pass

        def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
            if scheduler_stats is not None:
                load.step()
                load.running = scheduler_stats.num_running_reqs
                load.waiting = scheduler_stats.num_waiting_reqs
                load.kv_cache_usage = scheduler_stats.kv_cache_usage
            if iteration_stats is not None:
                load.prompt_tokens += iteration_stats.num_prompt_tokens
                load.completion_tokens += iteration_stats.num_generation_tokens
                load.preemptions += iteration_stats.num_preempted_reqs

        def log_engine_initialized(self) -> None:
            pass

    return StepRecorder
