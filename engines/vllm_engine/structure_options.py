"""What a structure says beside what is asked for: honoured, by working it into the schema, or refused by name.

vLLM itself takes these fields in a request and does nothing with them.
"""

import json
from typing import Any

from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.vllm_engine import compat

PARAM = "sampling_params.structured_outputs"
OPTIONS = {  # and what they make of a schema
    "disable_any_whitespace": compat.without_whitespace,
    "disable_additional_properties": compat.without_additional_properties,
}

Structure = dict[str, Any]  # Any: StructuredOutputs, by its fields' names


class StructureRefused(Exception):
    """A structure that cannot be held, and why."""

    def __init__(self, why: str, field: str | None = None) -> None:
        super().__init__(why)
        below = "" if field is None else f".{field}"
        message = f"structured_outputs{below}: {why}"
        self.error = ItemError(ItemErrorCode.INVALID_SAMPLING_PARAMS, message, PARAM + below)


def arranged(structure: Structure, config: Any) -> Structure:  # Any: vLLM's StructuredOutputsConfig
    """The structure with its options in its schema. Raises StructureRefused for one that would be ignored."""
    if "whitespace_pattern" in structure:
        raise StructureRefused("vLLM does not apply it; leave it out", "whitespace_pattern")
    result = {name: value for name, value in structure.items() if name not in OPTIONS}
    if (schema := schema_of(result)) and "x-guidance" in schema:
        raise StructureRefused("'x-guidance' at the top changes what the schema means; leave it out", "json")
    for name in OPTIONS:
        wanted = structure.get(name)
        if wanted is None or wanted == getattr(config, name):
            continue
        if not wanted or config.backend != "guidance":
            remedy = "the operator can set it for all (--engine-args, structured_outputs_config)"
            raise StructureRefused(f"{config.backend} cannot be told for one request; {remedy}", name)
        result = _with_option(result, name)
    return result


def schema_of(structure: Structure) -> Structure | None:
    """The JSON schema as an object, if it is one."""
    schema = {"type": "object"} if structure.get("json_object") else structure.get("json")
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError):
            return None  # whoever compiles it says why
    return schema if isinstance(schema, dict) else None


def _with_option(structure: Structure, name: str) -> Structure:
    schema = schema_of(structure)
    if schema is None:
        raise StructureRefused("it goes with a JSON schema only; leave it out", name)
    changed = OPTIONS[name](schema)
    return {"json": json.dumps(changed) if isinstance(structure.get("json"), str) else changed}
