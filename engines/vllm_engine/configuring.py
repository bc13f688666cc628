"""vLLM's configuration of one rank, checked by vLLM before anything is loaded."""

from typing import Any

from engines import logs
from engines.contract.spec import RankSpec
from engines.rank.engine import EngineConfigError
from engines.vllm_engine import batch_defaults, compat, pooling
from engines.vllm_engine.arguments import engine_arguments, given_arguments
from engines.vllm_engine.batch_defaults import Choice
from engines.vllm_engine.weights import read_weights

logger = logs.get_logger(logs.RANK_LOGGER)
STEP_TOKENS = "max_num_batched_tokens"


def configure(spec: RankSpec) -> Any:  # Any: vLLM's VllmConfig
    """What the operator gave, and what suits the model and the GPU where nothing was given.

    Raises EngineConfigError: what vLLM refuses here, it would refuse again.
    """
    arguments = engine_arguments(spec)
    config = _with_long_enough_steps(spec, arguments)
    if spec.device == "cuda" and "max_num_seqs" not in arguments:
        choice = _choice(config, spec.gpus)
        logger.info("sequences_chosen", max_num_seqs=choice.max_num_seqs, reason=choice.reason)
        config = _checked(arguments | choice.arguments)
    if not pooling.pools(config):
        compat.pin_structure_backend(config)
    return config


def _with_long_enough_steps(spec: RankSpec, arguments: dict[str, Any]) -> Any:
    """The configuration. Some pooling models' prompts cannot be split: then a step has to be as long as the context,
    which vLLM sees to itself where nobody says how long it is to be. Any: vLLM's argument values, and its VllmConfig
    """
    try:
        return _checked(arguments)
    except EngineConfigError as error:
        if STEP_TOKENS not in str(error) or STEP_TOKENS in given_arguments(spec):
            raise
        del arguments[STEP_TOKENS]
        return _checked(arguments)


def _choice(config: Any, gpus: list[str]) -> Choice:  # Any: vLLM's VllmConfig
    """How many sequences suit the model and the GPU. An estimate that fails must not fail the start."""
    if any(gpu.startswith("MIG-") for gpu in gpus):
        return Choice(batch_defaults.FEWER, "a MIG instance's share of the memory is not known before it is used")
    try:
        return batch_defaults.choose(config, read_weights(config.model_config), compat.gpu_bytes())
    except Exception as error:  # noqa: BLE001  files that are no checkpoint, a driver that does not say
        return Choice(
            batch_defaults.FEWER, f"what the KV cache will hold could not be estimated ({type(error).__name__})"
        )


def _checked(arguments: dict[str, Any]) -> Any:  # Any: vLLM's argument values, and its VllmConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext

    try:
        return AsyncEngineArgs(**arguments).create_engine_config(UsageContext.LLM_CLASS)
    except Exception as error:
        raise EngineConfigError(f"vLLM refuses this configuration: {compat.refusal(error)}") from error
