"""What moved or changed between vLLM 0.26 and 0.33, its server's part (server_compat.py) aside, and the translation of
vLLM's errors."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from engines.contract.item_errors import ItemError, ItemErrorCode

OLDEST, NEWEST = (0, 26), (0, 33)
MAX_ERROR_LENGTH = 400
STRUCTURE_BACKENDS = {
    "xgrammar": ("backend_xgrammar", "XgrammarBackend"),
    "guidance": ("backend_guidance", "GuidanceBackend"),
    "outlines": ("backend_outlines", "OutlinesBackend"),
    "lm-format-enforcer": ("backend_lm_format_enforcer", "LMFormatEnforcerBackend"),
}


def is_supported(text: str) -> bool:
    """Whether this release of vLLM is one that Phalanx was tried with."""
    try:
        major, minor = (int(part) for part in text.split(".")[:2])
    except ValueError:
        return False
    return OLDEST <= (major, minor) <= NEWEST


def runs_model_runner_v2(config: Any) -> bool:  # Any: vLLM's VllmConfig
    """Which of vLLM's two model runners it is."""
    from vllm import envs

    return bool(getattr(config, "use_v2_model_runner", getattr(envs, "VLLM_USE_V2_MODEL_RUNNER", False)))


def remember_variables() -> None:
    """What vLLM reads of the environment is settled now. Read anew each time, it takes a rank 4 % of its time.

    vLLM does the same in its engine core and its workers.
    """
    from vllm import envs

    envs.enable_envs_cache()


def while_engine_core_loads(work: Callable[[], None]) -> None:
    """Does it once, on the thread that starts an engine, as soon as the engine core's process runs. Where vLLM is of a
    kind that does not say when that is, it does not do it at all.
    """
    from vllm.v1.engine import utils

    wait = getattr(utils, "wait_for_engine_startup", None)
    if wait is None:
        return

    def work_and_wait(*arguments: Any, **named: Any) -> Any:
        utils.wait_for_engine_startup = wait
        work()
        return wait(*arguments, **named)

    utils.wait_for_engine_startup = work_and_wait


def is_delta(params: Any) -> bool:  # Any: vLLM's SamplingParams
    """Whether each output of a request holds what has come since the one before."""
    from vllm.sampling_params import RequestOutputKind

    return bool(params.output_kind == RequestOutputKind.DELTA)


def is_given_up(output: Any) -> bool:  # Any: vLLM's PoolingRequestOutput
    """Whether the engine has ended a pooling request without pooling anything: an abort has no reason of its own."""
    return getattr(output, "error", None) is None and not output.outputs.data.numel()


def is_engine_death(error: BaseException) -> bool:
    """Whether vLLM says that its engine core is gone."""
    from vllm.v1.engine.exceptions import EngineDeadError

    return any(isinstance(cause, EngineDeadError) for cause in _chain(error))


def is_client_error(error: BaseException) -> bool:
    """Whether vLLM blames the request. Its validation error is a ValueError up to 0.26, a class of its own later."""
    from vllm import exceptions

    blamed: tuple[type[BaseException], ...] = (ValueError, TypeError, exceptions.VLLMValidationError)
    return any(isinstance(cause, blamed) for cause in _chain(error))


def is_refusal_of_structure(error: BaseException) -> bool:
    """Whether what a structure's compiler raised is about the structure: vLLM blames it, or a compiler in C++ does."""
    return is_client_error(error) or isinstance(error, RuntimeError | KeyError)


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
    structure is held to, and what it costs, would depend on what somebody else asked for before. guidance holds nearly
    all that it accepts (bench/structures.py), but reads fast tokenizers only.
    """
    from vllm.tokenizers import cached_tokenizer_from_config

    config = vllm_config.structured_outputs_config
    if config.backend == "auto":
        tokenizer = cached_tokenizer_from_config(model_config=vllm_config.model_config)
        config.backend = "guidance" if _guidance_reads(tokenizer) else "xgrammar"


def _guidance_reads(tokenizer: Any) -> bool:  # Any: vllm's TokenizerLike
    """Whether guidance can use this tokenizer. Older vLLMs have no such question, and no other answer."""
    from transformers import PreTrainedTokenizerFast
    from vllm.v1.structured_output.backend_guidance import GuidanceBackend

    ask = getattr(GuidanceBackend, "is_tokenizer_supported", None)
    return bool(ask(tokenizer)) if ask else isinstance(tokenizer, PreTrainedTokenizerFast)


def without_whitespace(schema: dict[str, Any]) -> dict[str, Any]:  # Any: a JSON schema
    """The schema, for guidance, with nothing between the parts of a text."""
    return {**schema, "x-guidance": {"whitespace_flexible": False}}


def without_additional_properties(schema: dict[str, Any]) -> dict[str, Any]:  # Any: a JSON schema
    """The schema with all objects closed that do not say whether they are."""
    from vllm.v1.structured_output.backend_guidance import process_for_additional_properties

    closed: dict[str, Any] = process_for_additional_properties(schema)
    return closed


def holds_after_reasoning_only(vllm_config: Any) -> bool:  # Any: vllm's VllmConfig
    """Whether texts begin with what no structure holds: a model's reasoning."""
    config = vllm_config.structured_outputs_config
    return bool(config.reasoning_parser) and not getattr(config, "enable_in_reasoning", False)


def structure_backend(name: str) -> Any:
    """The class of vLLM's own that compiles structures with this library."""
    module, cls = STRUCTURE_BACKENDS[name]
    return getattr(importlib.import_module(f"vllm.v1.structured_output.{module}"), cls)


def grammar_error(grammar: Any) -> str | None:
    """What guidance says of a grammar it has given up on; the others have no such state."""
    matcher = getattr(grammar, "ll_matcher", None)
    return matcher.get_error()[:MAX_ERROR_LENGTH].splitlines()[0] if matcher and matcher.get_error() else None


def text_as_compiled(backend: Any, tokens: list[int]) -> str | None:
    """The text that these tokens are to guidance; None for others. A tokenizer's own decoding may tidy spaces up."""
    tokenizer = getattr(backend, "ll_tokenizer", None)
    return None if tokenizer is None else str(tokenizer.decode_str(tokens))


def gpu_bytes() -> int:
    """The memory of this rank's first GPU, in use or not. It creates no CUDA context."""
    from vllm.platforms import current_platform

    return int(current_platform.get_device_total_memory())


@contextmanager
def engine_core_client(client: object) -> Iterator[None]:
    """Inside, AsyncLLM is built on this client of an engine core and starts none of its own."""
    from vllm.v1.engine.core_client import EngineCoreClient

    original = EngineCoreClient.make_async_mp_client
    EngineCoreClient.make_async_mp_client = staticmethod(lambda *_, **__: client)
    try:
        yield
    finally:
        EngineCoreClient.make_async_mp_client = staticmethod(original)


def step(core: Any) -> tuple[Any, bool]:  # Any: vLLM's EngineCore and EngineCoreOutputs
    """One step of an engine core in this process: its outputs, and whether there was anything for the model to do."""
    from vllm.v1.engine import EngineCoreOutputs

    outputs, was_executed = core.step_fn()
    core.post_step(model_executed=was_executed)
    return (outputs and outputs.get(0)) or EngineCoreOutputs(), was_executed


def joins_without_tokens(config: Any) -> bool:  # Any: vLLM's VllmConfig
    """Whether a step in which the scheduler has nothing to run takes part in the group's forward pass all the same.

    Under torchrun the old model runner sees to that itself, and the new one does not.
    """
    return not config.use_v2_model_runner


def is_moe(model_config: Any) -> bool:  # Any: vllm's ModelConfig, untyped here
    """Whether vLLM takes the model for a mixture of experts."""
    answer = model_config.is_moe
    return bool(answer() if callable(answer) else answer)


def cache_tokens(vllm_config: Any) -> int:  # Any: vllm's VllmConfig
    """How many tokens the KV cache holds; 0 when vLLM has not said, and of an encoder, which has one block for none."""
    cache = vllm_config.cache_config
    blocks = int(cache.num_gpu_blocks or 0)
    return blocks * int(cache.block_size or 0) if blocks > 1 else 0


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what caused it, outermost first: EngineGenerateError hides its cause."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__
    return chain
