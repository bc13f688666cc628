"""How settings are written: whole numbers such as 16k, sizes, times such as 90s, lists and JSON."""

import json
import re
import shlex
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ByteSize, Field
from pydantic_settings import NoDecode


def lower(value: object) -> object:
    """Upper and lower case are the same."""
    return value.lower() if isinstance(value, str) else value


def _count(value: object) -> object:
    """Such as 16k, read as vLLM reads it: k, m, g are powers of 1000, and K, M, G of 1024. `auto` is -1."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgKMG])", str(value).strip())
    if found is None:
        return -1 if value == "auto" else value
    number, suffix = found.groups()
    return int(float(number) * (1000 if suffix.islower() else 1024) ** ("kmg".index(suffix.lower()) + 1))


def seconds(value: object) -> float:
    """Such as 90s, 5m or 24h, or a number of seconds. Raises ValueError, which says what it must be."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|)", str(value).strip())
    if found is None:
        raise ValueError("it must be a number of seconds, or such as 90s, 5m or 24h")
    return float(found[1]) * {"ms": 0.001, "s": 1, "": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def _json_object(value: object) -> object:
    try:
        parsed = json.loads(value, parse_constant=_no_constant) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f'it must be a JSON object such as {{"block_size": 32}} ({error})') from None
    if not isinstance(parsed, dict):
        raise ValueError('it must be a JSON object such as {"block_size": 32}')  # noqa: TRY004  # pydantic's protocol
    return parsed


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def home(value: object) -> object:
    """A path may begin with ~."""
    if not isinstance(value, str) or not value.startswith("~"):
        return value
    try:
        return str(Path(value).expanduser())
    except RuntimeError:  # no such user, or one without a home
        raise ValueError(f"{value.partition('/')[0]} is no home that the system knows; write the whole path") from None


def _otlp_endpoint(value: object) -> object:
    """OTLP's own path is added where there is none."""
    found = re.fullmatch(r"https?://[^/?#\s]+(/[^\s]*)?", str(value))
    if found is None:
        raise ValueError("it must be a collector's URL for OTLP over HTTP, such as http://localhost:4318/v1/traces")
    return value if (found[1] or "/") != "/" else f"{str(value).rstrip('/')}/v1/traces"


def _names(value: object) -> object:
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


def _arguments(value: object) -> object:
    return shlex.split(value) if isinstance(value, str) else value


Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Count = Annotated[int, BeforeValidator(_count), Field(ge=1)]
CountOrAuto = Annotated[int, BeforeValidator(_count), Field(ge=-1)]
Part = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Seconds = Annotated[float, BeforeValidator(seconds), Field(gt=0, allow_inf_nan=False)]
Size = Annotated[ByteSize, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]
OtlpEndpoint = Annotated[Text, BeforeValidator(_otlp_endpoint)]
JsonObject = Annotated[dict[str, Any], NoDecode, BeforeValidator(_json_object)]  # Any: the engine checks it
Names = Annotated[list[str], NoDecode, BeforeValidator(_names)]
Arguments = Annotated[list[str], NoDecode, BeforeValidator(_arguments)]
