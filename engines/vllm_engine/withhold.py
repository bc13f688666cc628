"""A vLLM plugin: keeps prompts, outputs and sampling parameters out of vLLM's own logs.

When a step of the engine fails, vLLM dumps what it was working on, sampling parameters in full. Other lines quote what
a request holds: a chat template's refusal, a grammar that cannot be compiled, tokens that a grammar rejects. vLLM
loads this in every one of its processes; it does nothing unless the rank's launcher set the variable, which it does
unless prompts were asked for (--log-prompts).
"""

import logging
import os
import re
import traceback
from collections.abc import Callable, Sized
from typing import Any

from engines.failures import kind

VARIABLE = "PHALANX_RANK_WITHHOLD_PROMPTS"
MARK = "withholds_for_phalanx"
WITHHELD = "(withheld)"
NOTE = "prompts, outputs and sampling parameters are withheld: --log-prompts shows them"

# What is kept of a scheduler's output: ids and counts, by vLLM's names for them. Whatever else it holds, in any
# version, is shown by its kind and size.
KEPT = frozenset(
    {
        "req_id",
        "req_ids",
        "resumed_req_ids",
        "num_computed_tokens",
        "num_output_tokens",
        "num_scheduled_tokens",
        "total_num_scheduled_tokens",
        "num_common_prefix_blocks",
        "finished_req_ids",
        "preempted_req_ids",
    }
)
OPENED = frozenset({"scheduled_new_reqs", "scheduled_cached_reqs"})

# Loggers of what handles a request's content: their arguments are withheld, but for the ids that we gave requests.
OF_CONTENT = (
    "vllm.renderers",
    "vllm.entrypoints",
    "vllm.inputs",
    "vllm.multimodal",
    "vllm.parser",
    "vllm.reasoning",
    "vllm.tool_parsers",
    "vllm.tokenizers",
    "vllm.sampling_params",
    "vllm.v1.engine.detokenizer",
    "vllm.v1.engine.input_processor",
    "vllm.v1.engine.logprobs",
    "vllm.v1.sample",
    "vllm.v1.structured_output",
)
# Lines of other loggers that quote content, by a part of their text.
LINES_OF_CONTENT = ("grammar rejected tokens", "error pre-processing request", "failed (bad request)", "failed due to")
REQUEST_ID = re.compile(r"(\d+_)?\d+(-[0-9a-f]{8})?")  # an attempt's number, and what vLLM adds to it
CONVERSION = re.compile(r"%(?!%)(\(\w+\))?[-#0 +]*(\d+|\*)?(\.\d+)?[a-zA-Z]")

Factory = Callable[..., logging.LogRecord]


def register() -> None:
    """vLLM's entry point. May be called more than once in a process."""
    if os.environ.get(VARIABLE) != "1":
        return
    factory = logging.getLogRecordFactory()
    if not hasattr(factory, MARK):
        logging.setLogRecordFactory(withholding(factory))
    _mend_dump()
    os.environ["LLGUIDANCE_LOG_LEVEL"] = "0"  # guidance's library writes tokens that it rejects to stderr by itself


# ---------------------------------------------------------------- the dump at an engine's death


def _mend_dump() -> None:
    """What vLLM makes a text of its scheduler's output with is the same from 0.26 to 0.32."""
    try:
        from vllm.logging_utils import dump_input

        _ = dump_input.prepare_object_to_dump
    except (ImportError, AttributeError) as error:
        logging.getLogger("vllm.phalanx").warning(
            "this vLLM has no prepare_object_to_dump (%s): its dump at an engine's death may show sampling parameters",
            error,
        )
        return
    dump_input.prepare_object_to_dump = dump


def dump(scheduler_output: Any) -> str:  # Any: vLLM's SchedulerOutput
    """Whose requests the engine was working on, and how much there was of everything."""
    return f"{_outline(scheduler_output)}; {NOTE}"


def _outline(thing: Any) -> str:
    if isinstance(thing, list | tuple):
        return f"[{', '.join(_outline(entry) for entry in thing)}]"
    parts = [f"{name}={_part(name, value)}" for name, value in getattr(thing, "__dict__", {}).items()]
    return f"{type(thing).__name__}({', '.join(parts)})"


def _part(name: str, value: Any) -> str:
    if name in OPENED:
        return _outline(value)
    if name in KEPT or value is None:
        return repr(value)
    size = f" of {len(value)}" if isinstance(value, Sized) else ""
    return f"<{type(value).__name__}{size}>"


# ---------------------------------------------------------------- lines that quote a request


def withholding(factory: Factory) -> Factory:
    """A factory of log records that takes out what a request holds."""

    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:  # Any: as logging calls it
        record = factory(*args, **kwargs)
        if _is_of_content(record):
            _withhold(record)
        return record

    setattr(make, MARK, True)
    return make


def _is_of_content(record: logging.LogRecord) -> bool:
    name = str(record.name)  # None while logging copies a record
    return name.startswith(OF_CONTENT) or (
        name.startswith("vllm.") and any(part in str(record.msg) for part in LINES_OF_CONTENT)
    )


def _withhold(record: logging.LogRecord) -> None:
    """The line's own words stay, with ids; so do an exception's kind and frames."""
    if record.args:
        values = record.args.values() if isinstance(record.args, dict) else record.args
        shown = iter([_shown(value) for value in values])
        record.msg = CONVERSION.sub(lambda _: next(shown, WITHHELD), str(record.msg)).replace("%%", "%")
        record.args = ()
    if record.exc_info and record.exc_info[1] is not None:
        frames = "".join(traceback.format_tb(record.exc_info[2]))
        record.msg = f"{record.msg}\n{frames}{kind(record.exc_info[1], with_message=False)}"
        record.exc_info = record.exc_text = None


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and REQUEST_ID.fullmatch(value) else WITHHELD
