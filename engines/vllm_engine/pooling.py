"""Models that generate nothing: what they see of a prompt is pooled into a vector, a score or classes."""

from typing import Any

from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.vllm_engine.sampling import SamplingCompiler

# What a warm-up may ask for, the cheapest first. Others are of plugins, whose prompts nobody here knows.
TASKS = ("embed", "classify", "token_embed", "token_classify")
WARM_UP_TOKENS = [1, 2]


def pools(config: Any) -> bool:  # Any: vLLM's VllmConfig
    """Whether the model that is configured is one of these."""
    return bool(config.model_config.runner_type == "pooling")


async def warm_up(llm: Any, context: dict[str, Any]) -> None:  # Any: vLLM's AsyncLLM, and arguments of its `encode`
    """One short prompt through the model."""
    from vllm import PoolingParams

    supported = await llm.get_supported_tasks()
    task = next((task for task in TASKS if task in supported), None)
    if task is None:
        return
    async for _ in llm.encode({"prompt_token_ids": WARM_UP_TOKENS}, PoolingParams(task=task), "warm-up", **context):
        pass


class NoSampling(SamplingCompiler):
    """Stands in the place of sampling parameters: refuses every item that is to be generated for."""

    def __init__(self, model: str) -> None:
        self._refusal = ItemError(
            ItemErrorCode.INVALID_PROMPT, f"{model!r} is a pooling model: it generates nothing, use OpenAI's API for it"
        )

    def template(self, params: bytes) -> ItemError:
        """The refusal."""
        return self._refusal

    async def checked(self, params: bytes) -> ItemError:
        """The same."""
        return self._refusal
