"""What an operator allows one item's sampling parameters to cost: checked of items by the gateway, and of exchanges,
whose parameters vLLM's application makes, by the rank."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from engines.contract.sampling import INT32_MAX, SamplingFields, StructuredOutputs

MAX_SCHEMA_DEPTH = 64
LISTS = ("stop_token_ids", "allowed_token_ids", "logprob_token_ids", "logit_bias")


class ParameterLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of these names. Without them there are none."""

    max_n: int = INT32_MAX
    max_stop_strings: int = INT32_MAX
    max_string_length: int = INT32_MAX
    max_list_length: int = INT32_MAX
    max_structure_length: int = INT32_MAX


class Excess(msgspec.Struct, frozen=True):
    """What is too much, and a sentence that says so."""

    param: str  # a path, such as "structured_outputs.json"
    message: str


def first_excess(fields: SamplingFields, limits: ParameterLimits, place: str = "") -> Excess | None:
    """The first field that is too large; None where all are within the limits. `place` comes before its name."""
    return next(_excesses(fields, limits, f"{place}." if place else ""), None)


def _excesses(fields: SamplingFields, limits: ParameterLimits, place: str) -> Iterator[Excess]:
    stops = [fields.stop] if isinstance(fields.stop, str) else _list(fields.stop)
    for name, length in {"stop": len(stops), "bad_words": len(_list(fields.bad_words))}.items():
        yield from _beyond(f"{place}{name}", "entries", length, limits.max_stop_strings, "--max-stop-strings")
    for name in LISTS:
        length = len(_list(getattr(fields, name)))
        yield from _beyond(f"{place}{name}", "entries", length, limits.max_list_length, "--max-list-length")
    sizes = {
        "stop": max(map(len, stops), default=0),
        "bad_words": sum(map(len, _list(fields.bad_words))),  # the rank tokenises them, twice
    }
    for name, size in sizes.items():
        yield from _beyond(f"{place}{name}", "characters", size, limits.max_string_length, "--max-string-length")
    if fields.n is not msgspec.UNSET:
        yield from _beyond(f"{place}n", "outputs", fields.n, limits.max_n, "--max-n")
    if fields.structured_outputs is not msgspec.UNSET:
        yield from _of_structure(fields.structured_outputs, limits, f"{place}structured_outputs.")


def _of_structure(structured: StructuredOutputs, limits: ParameterLimits, place: str) -> Iterator[Excess]:
    """Bounds what a grammar compiler is given."""
    for name in structured.__struct_fields__:
        value, param = getattr(structured, name), f"{place}{name}"
        size = 0
        if isinstance(value, dict):
            size = len(msgspec.json.encode(value))
        elif isinstance(value, str):
            size = len(value)
        elif isinstance(value, list):
            yield from _beyond(param, "entries", len(value), limits.max_list_length, "--max-list-length")
            size = sum(map(len, value))
        yield from _beyond(param, "characters", size, limits.max_structure_length, "--max-structure-length")
        if isinstance(value, dict) and _is_too_deep(value):
            yield Excess(param, f"{param} is nested deeper than {MAX_SCHEMA_DEPTH} levels")


def beyond_n(n: int, limit: int, param: str = "n") -> Excess | None:
    """So many outputs of one prompt are too many; None where they are not."""
    return next(_beyond(param, "outputs", n, limit, "--max-n"), None)


def _beyond(param: str, what: str, size: int, limit: int, flag: str) -> Iterator[Excess]:
    if size > limit:
        yield Excess(param, f"{param} has {size} {what}, at most {limit} are accepted ({flag})")


def _is_too_deep(schema: Any) -> bool:  # Any: JSON
    level: list[Any] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        level = [child for node in level for child in _children(node)]
        if not level:
            return False
    return True


def _children(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def _list(value: Any) -> list[Any]:
    return [] if value is msgspec.UNSET else value
