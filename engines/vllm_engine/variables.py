"""Variables by which vLLM's processes are told how to log, where their spans go, how to hold calls of tools, and that
a request may have any number of stop strings.

They are set before vLLM is imported, and its processes inherit them. What the operator chose stays.
"""

import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import msgspec

from engines.contract.sampling import INT32_MAX
from engines.contract.spec import RankSpec

CONFIG_NAME = "vllm-logging.json"
PREFIX, CONFIG, LEVEL = "VLLM_LOGGING_PREFIX", "VLLM_LOGGING_CONFIG_PATH", "VLLM_LOGGING_LEVEL"
# Else vLLM holds calls of tools by tags in a form that only xgrammar reads, and guidance holds structures here. A tool
# that has to be called is held by its schema all the same.
STRICT_TOOLS = "VLLM_ENFORCE_STRICT_TOOL_CALLING"
# vLLM's server takes four. How many are taken here is a setting of ours (exchanges/gate.py).
STOP_STRINGS, ANY_NUMBER = "VLLM_MAX_STOP_STRINGS", str(INT32_MAX)
SERVICE, RESOURCE, PROTOCOL = "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"


def choose(spec: RankSpec, environ: MutableMapping[str, str]) -> None:
    """Sets them for this process and those below it."""
    _choose_lines(spec, environ)
    environ.setdefault(STRICT_TOOLS, "0")
    environ.setdefault(STOP_STRINGS, ANY_NUMBER)
    if spec.otlp_traces_endpoint is not None:
        _choose_traces(spec, environ)


def _choose_lines(spec: RankSpec, environ: MutableMapping[str, str]) -> None:
    """For a person, vLLM's own lines with the rank's ids in front; as JSON, the same facts by our renderer."""
    if spec.log_format == "console":
        environ.setdefault(PREFIX, "".join(f"{name}={value} " for name, value in spec.ids.items()))
    elif CONFIG not in environ and environ.get("VLLM_CONFIGURE_LOGGING") != "0":
        path = Path(spec.directory) / CONFIG_NAME
        text = msgspec.json.encode(_json_lines(spec, environ.get(LEVEL, "INFO").upper()))
        unfinished = path.with_name(f"{CONFIG_NAME}.{os.getpid()}")  # torchrun's workers write it at the same time
        unfinished.write_bytes(text)
        unfinished.replace(path)
        environ[CONFIG] = str(path)


def _json_lines(spec: RankSpec, level: str) -> dict[str, Any]:  # Any: logging.config's own schema
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": "engines.logs.vllm_formatter", "ids": spec.ids}},
        "handlers": {"line": {"class": "engines.logs.LineHandler", "formatter": "line", "level": level}},
        "loggers": {"vllm": {"handlers": ["line"], "level": level, "propagate": False}},
    }


def _choose_traces(spec: RankSpec, environ: MutableMapping[str, str]) -> None:
    """vLLM speaks gRPC unless it is told; the endpoint is the gateway's, which speaks HTTP."""
    environ[PROTOCOL] = "http/protobuf"
    environ.setdefault(SERVICE, "phalanx-rank")
    own = ",".join(f"phalanx.{name}={value}" for name, value in spec.ids.items())
    environ[RESOURCE] = ",".join(filter(None, [environ.get(RESOURCE), own]))
