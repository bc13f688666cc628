"""vLLM's configuration of one rank, checked by vLLM before anything is loaded."""

from typing import Any

from engines import logs
from engines.contract.spec import RankSpec
from engines.rank.engine import EngineConfigError
from engines.vllm_engine import batch_defaults, compat
from engines.vllm_engine.arguments import engine_arguments
from engines.vllm_engine.weights import read_weights

logger = logs.get_logger(logs.RANK_LOGGER)


def configure(spec: RankSpec) -> Any:  # Any: vLLM's VllmConfig
    """What the operator gave, and what suits the model and the GPU where nothing was given.

    Raises EngineConfigError: what vLLM refuses here, it would refuse again.
    """
    arguments = engine_arguments(spec)
    config = _checked(arguments)
    if spec.device == "cuda" and "max_num_seqs" not in arguments:
        choice = batch_defaults.choose(config, read_weights(config.model_config), compat.gpu_bytes())
        logger.info("sequences_chosen", max_num_seqs=choice.max_num_seqs, reason=choice.reason)
        config = _checked(arguments | choice.arguments)
    compat.pin_structure_backend(config)
    return config


def _checked(arguments: dict[str, Any]) -> Any:  # Any: vLLM's argument values, and its VllmConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext

    try:
        return AsyncEngineArgs(**arguments).create_engine_config(UsageContext.LLM_CLASS)
    except Exception as error:
        raise EngineConfigError(f"vLLM refuses this configuration: {compat.refusal(error)}") from error
