"""From flags and variables to Settings: reads, checks, and says in one sentence each what is wrong.

All problems of a start are said at once, in one SettingsError. Flags win over variables; an empty variable is unset.
"""

import difflib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource

from app.settings.checks import contradictions
from app.settings.declaration import Settings, SettingsError, label, variable
from app.settings.section import PREFIX
from app.settings.service_links import is_service_link

# pydantic's kinds of errors, as what the operator has to do. Others are said in pydantic's words.
REMEDIES = {
    "greater_than_equal": "it must be at least {ge}",
    "greater_than": "it must be more than {gt}",
    "less_than_equal": "it must be at most {le}",
    "literal_error": "it must be {expected}",
    "enum": "it must be {expected}",
    "int_parsing": "it must be a whole number",
    "int_from_float": "it must be a whole number",
    "float_parsing": "it must be a number",
    "bool_parsing": "it must be true or false",
    "string_too_short": "it must not be empty",
    "byte_size": "it must be a size such as 4194304 or 4MiB",
    "byte_size_unit": "it must be a size such as 4194304 or 4MiB",
    "value_error": "{error}",
}

RANK_VARIABLES = (PREFIX + "RANK_CPU_EXPERT_PARALLEL", PREFIX + "RANK_WITHHOLD_PROMPTS")  # set for ranks, by plan.py
CLIENT_VARIABLES = (PREFIX + "API_KEY",)  # read by commands that ask a gateway; often set beside the settings


def load_settings(given: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings from what was given as flags, by name, and from the variables. None is not given.

    Raises SettingsError. Any: strings from the command line, or values of the setting's type.
    """
    problems = list(unknown_variables(environ))
    values = variable_values(environ) | {name: value for name, value in given.items() if value is not None}
    try:
        settings = Settings(**values)
    except ValidationError as error:
        problems += [sentence(detail) for detail in error.errors()]
        raise SettingsError("\n".join(problems)) from None
    problems += contradictions(settings)
    if problems:
        raise SettingsError("\n".join(problems))
    return settings


def sentence(detail: ErrorDetails) -> str:
    """What is wrong with one value, and what it must be."""
    name = str(detail["loc"][0])
    remedy = detail["msg"]
    if detail["type"] in REMEDIES:
        remedy = REMEDIES[detail["type"]].format(**detail.get("ctx", {}))
    return f"{label(name)} is {str(detail['input'])[:200] or 'empty'}: {remedy}"


def variable_values(environ: Mapping[str, str]) -> dict[str, Any]:
    """The settings that variables give, by name."""
    source = EnvSettingsSource(Settings, env_ignore_empty=True)
    source.env_vars = {
        name.lower(): value
        for name, value in environ.items()
        if name.startswith(PREFIX) and value and not is_service_link(name, value)
    }
    values = source()
    if vllms_own := environ.get("VLLM_CPU_KVCACHE_SPACE"):
        values.setdefault("cpu_kv_cache_gib", vllms_own)
    return values


def unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """A sentence for every PHALANX_* variable that no setting has: a typing error would change nothing, silently."""
    known = [*(variable(name) for name in Settings.model_fields), *CLIENT_VARIABLES]
    for name, value in sorted(environ.items()):
        if not name.startswith(PREFIX) or name in known or name in RANK_VARIABLES or is_service_link(name, value):
            continue
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "`phalanx serve --help` lists those there are."
        yield f"{name} is no variable of Phalanx: correct or unset it; {hint}"
