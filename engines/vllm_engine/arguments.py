"""From a rank's spec to vLLM's own arguments. What we do not name goes through untouched and is checked by vLLM."""

import argparse
import dataclasses
import difflib
from typing import Any, NamedTuple, NoReturn

from engines.contract.spec import ExecutorKind, GroupKind, RankSpec
from engines.contract.tuned import SEQUENCES, STEP_TOKENS
from engines.rank.engine import EngineConfigError
from engines.vllm_engine import server_compat
from engines.vllm_engine.batch_defaults import FEWER, graphs_for, is_decided
from engines.vllm_engine.front_flags import ANSWER_FLAGS, check_front_flag

# What Phalanx decides for every rank; set by hand, the ranks would not find each other.
OWN_ARGUMENTS = {
    "model": "--model",
    "tensor_parallel_size": "--tp-size",
    "data_parallel_size": "--dp-size",
    "data_parallel_rank": "--dp-size",
    "data_parallel_size_local": "--dp-size",
    "data_parallel_start_rank": "--dp-size",
    "data_parallel_address": "--dp-size",
    "data_parallel_rpc_port": "--dp-size",
    "data_parallel_external_lb": "--dp-size",
    "data_parallel_hybrid_lb": "--dp-size",
    "data_parallel_backend": "--dp-size",
    "enable_expert_parallel": "--expert-parallel / --no-expert-parallel",
    "disable_log_stats": "/metrics, which needs them",
    "enable_log_requests": "--log-level debug, which tells of every item",
    "otlp_traces_endpoint": "--otlp-traces-endpoint before `--`",
}

EXECUTOR = "distributed_executor_backend"
SHARED_MEMORY = 0.9  # of a GPU's, for all ranks that share it


class Default(NamedTuple):
    """A value, and why, for the log."""

    value: int | str
    reason: str


# The defaults of vLLM's server suit interactive use. How many sequences a GPU runs at once is batch_defaults' business.
BATCH_DEFAULTS = {
    "cuda": {
        STEP_TOKENS: Default(16384, "many prompts are taken in by one step; a server's steps are short for who waits"),
    },
    "cpu": {
        SEQUENCES: Default(256, "the engine's Python costs more a step than a sequence"),
        STEP_TOKENS: Default(4096, "many prompts are taken in by one step, and a step of a CPU is long as it is"),
        "dtype": Default(
            "float32", "in bfloat16 some CPUs stop with an illegal instruction, and texts depend on others"
        ),
    },
}


# vLLM would fetch what the messages of a request name, from wherever this machine reaches. No host has this name.
NO_MEDIA_HOSTS = ["no-media-is-fetched.invalid"]


def engine_arguments(spec: RankSpec) -> dict[str, Any]:  # Any: vLLM's argument values
    """Keyword arguments of vLLM's AsyncEngineArgs. Raises EngineConfigError with a sentence for the operator.

    On a GPU `max_num_seqs` is missing where the operator leaves it open.
    """
    arguments: dict[str, Any] = {name: default.value for name, default in defaults_of(spec).items()}
    given = given_arguments(spec)
    _check_names(given)
    _check_executor(spec, given)
    arguments |= given
    if spec.device == "cuda" and is_decided(given):
        step_tokens = arguments[STEP_TOKENS]
        arguments.setdefault(SEQUENCES, min(FEWER, step_tokens) if isinstance(step_tokens, int) else FEWER)
        arguments |= graphs_for(given)
    if spec.ranks_per_gpu > 1:
        arguments.setdefault("gpu_memory_utilization", round(SHARED_MEMORY / spec.ranks_per_gpu, 3))
    if spec.device == "cpu" and spec.expert_parallel and (spec.dp_size > 1 or spec.tp_size > 1):
        arguments.setdefault("enforce_eager", True)  # there to try things out: a quick start counts for more
    arguments.setdefault("allowed_media_domains", NO_MEDIA_HOSTS)
    arguments.setdefault("served_model_name", spec.served_as or spec.model)  # as vLLM's refusals call it
    arguments |= {
        "model": spec.model,
        "tensor_parallel_size": spec.tp_size,
        "enable_expert_parallel": spec.expert_parallel,
        "disable_log_stats": False,
    }
    if spec.served_as:
        arguments.setdefault("served_model_name", spec.served_as)  # what vLLM's own messages and metrics call it
    if spec.otlp_traces_endpoint is not None:
        arguments["otlp_traces_endpoint"] = spec.otlp_traces_endpoint
    if spec.is_launched:
        return arguments | _launched(spec, given)
    if spec.tp_size > 1:
        # One process per worker: each gets its own GPU, or its own cores.
        arguments.setdefault(EXECUTOR, "mp")
    if spec.group_kind is GroupKind.LOCKSTEP and spec.lockstep is not None and spec.dp_size > 1:
        arguments |= {
            "data_parallel_size": spec.dp_size,
            "data_parallel_rank": spec.rank,
            "data_parallel_external_lb": True,
            "data_parallel_address": spec.lockstep.host,
            "data_parallel_rpc_port": spec.lockstep.rpc_port,
        }
    return arguments


def defaults_of(spec: RankSpec) -> "dict[str, Default]":
    """What suits batches, where the operator does not say otherwise."""
    return BATCH_DEFAULTS["cuda" if spec.device == "cuda" else "cpu"]


def _launched(spec: RankSpec, given: dict[str, Any]) -> dict[str, Any]:
    """Of workers that torchrun starts. Which data-parallel rank a worker belongs to follows from its number."""
    if given.get("pipeline_parallel_size", 1) != 1:
        raise EngineConfigError("pipeline_parallel_size does not go with --executor external_launcher: leave one out")
    is_lockstep = spec.group_kind is GroupKind.LOCKSTEP
    return {
        EXECUTOR: spec.executor.value,
        "data_parallel_size": spec.dp_size if is_lockstep else 1,
        # Steps that overlap would be scheduled before it is known what the ones before them put out.
        "async_scheduling": False,
    }


def given_arguments(spec: RankSpec) -> dict[str, Any]:
    """What the operator set: --engine-args, and the flags after ``--``, which must not contradict each other."""
    given = dict(spec.engine_args)
    for name, value in _parse_flags(spec.extra_args).items():
        if name in ANSWER_FLAGS:
            continue
        if name in given and given[name] != value:
            raise EngineConfigError(
                f"{name} is set twice, to {given[name]!r} by a setting or --engine-args and to {value!r} after `--`: "
                "keep one of them"
            )
        given[name] = value
    return given


def front_flags(spec: RankSpec) -> dict[str, Any]:
    """What the operator set of the flags of vLLM's server (front_flags.py), checked by name alone."""
    return {name: value for name, value in _parse_flags(spec.extra_args).items() if name in ANSWER_FLAGS}


def _engine_names() -> set[str]:
    from vllm.engine.arg_utils import AsyncEngineArgs

    return {field.name for field in dataclasses.fields(AsyncEngineArgs)}


def _check_names(given: dict[str, Any]) -> None:
    known = _engine_names()
    for name in given:
        if name in OWN_ARGUMENTS:
            raise EngineConfigError(f"engine argument {name!r} is Phalanx's own: use {OWN_ARGUMENTS[name]}")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f": did you mean {close[0]!r}?" if close else ""
            raise EngineConfigError(f"vLLM has no engine argument {name!r}{hint}")


def _check_executor(spec: RankSpec, given: dict[str, Any]) -> None:
    if EXECUTOR in given and (spec.is_launched or given[EXECUTOR] == ExecutorKind.EXTERNAL_LAUNCHER):
        raise EngineConfigError(f"engine argument {EXECUTOR!r} is Phalanx's own here: use --executor")


class _FlagError(Exception):
    """What argparse would have printed before leaving."""


def _parse_flags(flags: list[str]) -> dict[str, Any]:
    """vLLM's own command-line flags, parsed by its server's own parser: only what was given, not the defaults."""
    if not flags:
        return {}
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]  # vllm is untyped
        def error(self, message: str) -> NoReturn:
            raise _FlagError(message)

    parser = server_compat.add_server_flags(Parser(add_help=False))
    _forget_defaults(parser)
    try:
        parsed = dict(vars(parser.parse_args(flags)))
    except _FlagError as error:
        raise EngineConfigError(f"vLLM does not take the flags after `--` ({' '.join(flags)}): {error}") from error
    if parsed.pop("model_tag", None) is not None:
        raise EngineConfigError(f"the flags after `--` ({' '.join(flags)}) name a model: name it before `--`")
    for name in parsed.keys() - _engine_names():
        check_front_flag(name)
    return parsed


def _forget_defaults(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        action.default = argparse.SUPPRESS
