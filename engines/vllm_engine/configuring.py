"""vLLM's configuration of one rank, checked by vLLM before anything is loaded."""

from typing import Any

from engines import logs
from engines.contract.spec import GroupKind, RankSpec
from engines.contract.tuned import GRAPHS, SEQUENCES, STEP_TOKENS
from engines.rank.engine import EngineConfigError
from engines.vllm_engine import batch_defaults, compat, pooling
from engines.vllm_engine.arguments import defaults_of, engine_arguments, given_arguments
from engines.vllm_engine.batch_defaults import Choice, is_decided
from engines.vllm_engine.weights import Weights, read_weights

CACHE = "kv_cache_memory_bytes"
EAGER = "enforce_eager"
PREFIX_CACHING, PREFILL_INTERVAL = "enable_prefix_caching", "prefill_schedule_interval"
logger = logs.get_logger(logs.RANK_LOGGER)


def configure(spec: RankSpec) -> Any:  # Any: vLLM's VllmConfig
    """What the operator gave, and what suits the model and the GPU where nothing was given.

    Raises EngineConfigError: what vLLM refuses here, it would refuse again.
    """
    arguments = engine_arguments(spec)
    config = _with_long_enough_steps(spec, arguments)
    chosen: dict[str, Any] = {}
    if spec.device == "cuda" and SEQUENCES not in arguments:
        choice = _choice(config, spec.gpus)
        _say(SEQUENCES, choice.max_num_seqs, choice.reason)
        chosen |= choice.arguments
    if spec.ranks_per_gpu > 1:
        weights = read_weights(config.model_config)
        if CACHE not in arguments:
            chosen[CACHE] = _part_of_cache(spec, config, weights)
        _check_room(spec, config, weights, (arguments | chosen)[CACHE])
    if chosen:
        arguments |= chosen
        config = _checked(arguments)
    say_defaults(spec, arguments, config)
    if not pooling.pools(config):
        compat.pin_structure_backend(config)
    return config


def say_defaults(spec: RankSpec, arguments: dict[str, Any], config: Any) -> None:  # Any: values, and a VllmConfig
    """What was chosen where the operator left it open, in a line each."""
    given = given_arguments(spec)
    for name, default in defaults_of(spec).items():
        if name not in given and name in arguments:
            _say(name, default.value, default.reason)
        elif name not in given:
            steps = "this model's prompts cannot be split: a step is as long as the context"
            _say(name, config.scheduler_config.max_num_batched_tokens, steps)
    if EAGER in arguments and EAGER not in given:
        _say(EAGER, arguments[EAGER], "experts over several ranks of a CPU are there to try things out: a quick start")
    _say_scheduling(spec, given, config)
    if spec.device != "cuda":
        return
    if is_decided(given) and SEQUENCES not in given:
        _say(SEQUENCES, arguments[SEQUENCES], "which graphs there are was given, and vLLM captures them for so many")
    if GRAPHS in arguments and GRAPHS not in given:
        sizes = config.compilation_config.cudagraph_capture_sizes
        reason = "a step has a token of each sequence and prompts besides, and runs eagerly where no graph is so large"
        _say("cudagraph_capture_sizes", f"{len(sizes)}, to {max(sizes, default=0)} tokens", reason)


def _say_scheduling(spec: RankSpec, given: dict[str, Any], config: Any) -> None:  # Any: as above
    """What is left as vLLM has it, and matters to batches."""
    if PREFIX_CACHING not in given:
        caches = config.cache_config.enable_prefix_caching
        why = "what prompts begin with alike is computed once" if caches else "vLLM has none for this model"
        _say(PREFIX_CACHING, caches, why)
    if spec.group_kind is GroupKind.LOCKSTEP and PREFILL_INTERVAL not in given:
        steps = config.scheduler_config.prefill_schedule_interval
        _say(
            PREFILL_INTERVAL,
            steps,
            "a prompt waits for no step; more is faster for long-tailed batches, and slower for who waits",
        )


def _say(name: str, value: object, reason: str) -> None:
    logger.info("setting_chosen", setting=name, value=value, reason=reason)


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


def _part_of_cache(spec: RankSpec, config: Any, weights: Weights | None) -> int:  # Any: vLLM's VllmConfig
    """The KV cache of a rank that shares its GPU. vLLM measures what is left for it while the others load: it is told.

    Raises EngineConfigError where that cannot be said, or nothing is left.
    """
    several = f"{spec.ranks_per_gpu} ranks share a GPU"
    if weights is None:
        raise EngineConfigError(
            f"{several}, and how large this model's weights are is not known before they are loaded: say how much each "
            f"keeps for its KV cache ({CACHE} in --engine-args), or lower --ranks-per-gpu"
        )
    share = batch_defaults.cache_bytes(config, weights, compat.gpu_bytes())
    if not share:
        resident = batch_defaults.resident_bytes(weights, config.parallel_config) / batch_defaults.GIB
        raise EngineConfigError(
            f"{several}, and {config.cache_config.gpu_memory_utilization:.0%} of its memory does not hold one of them: "
            f"{resident:.1f} GiB of weights, some for the work, and a KV cache; lower --ranks-per-gpu"
        )
    _say(CACHE, int(share), "an estimate: ranks that share a GPU load side by side, and cannot measure what is left")
    return int(share)


def _check_room(spec: RankSpec, config: Any, weights: Weights | None, cache_bytes: int) -> None:  # Any: as above
    """Raises EngineConfigError for caches that cannot all lie on the GPU: some ranks would start, and others fail for
    ever."""
    memory = compat.gpu_bytes()
    resident = batch_defaults.resident_bytes(weights, config.parallel_config) if weights is not None else 0.0
    needed = spec.ranks_per_gpu * (cache_bytes + resident)
    if needed > memory:
        gib = batch_defaults.GIB
        raise EngineConfigError(
            f"{spec.ranks_per_gpu} ranks share a GPU of {memory / gib:.1f} GiB, and with {CACHE}={cache_bytes} "
            f"({cache_bytes / gib:.1f} GiB) and {resident / gib:.1f} GiB of weights each they need "
            f"{needed / gib:.1f} GiB: lower one of them, or --ranks-per-gpu"
        )


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
