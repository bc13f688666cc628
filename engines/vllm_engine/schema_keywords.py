"""Where in a JSON schema a keyword stands that cannot be held. A place is a path below the schema: properties/a/items.

guidance refuses what it cannot hold, but not always by name: `culprit` finds the keyword by trying parts of the schema.
The other backends pass over much of what they do not know: `unheld` says what that is.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

Schema = dict[str, Any]  # Any: JSON

BY_NAME = ("$defs", "definitions", "properties", "patternProperties", "dependentSchemas")
LISTED = ("prefixItems", "anyOf", "oneOf", "allOf", "items")
SINGLE = (
    *("items", "additionalItems", "additionalProperties", "propertyNames", "contains", "not", "if", "then", "else"),
    *("unevaluatedItems", "unevaluatedProperties"),
)
SHARED = ("$schema", "$defs", "definitions")  # what a part needs of the whole
TRIED_LAST = ("properties", "type")  # without these nearly everything is accepted

ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment", "$schema", "$id"}
    | {"$defs", "definitions", "discriminator"}
)
NUMBERS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
BASIC = frozenset(
    {"type", "properties", "required", "additionalProperties", "items", "prefixItems", "enum", "const", "anyOf", "$ref"}
)
# What the backends hold that do not refuse the rest by themselves. guidance does.
HELD: dict[str, frozenset[str]] = {
    "xgrammar": BASIC | NUMBERS | {"minItems", "maxItems", "minProperties", "maxProperties", "pattern", "format"},
    "outlines": BASIC,
    "lm-format-enforcer": BASIC,
}
ALONE = ("$ref", "anyOf", "enum", "const")  # what stands beside these is passed over
PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}
NEEDS_TYPE: dict[str, frozenset[str]] = {
    **dict.fromkeys(NUMBERS, frozenset({"integer", "number"})),
    **dict.fromkeys(("minItems", "maxItems", "items", "prefixItems"), frozenset({"array"})),
    **dict.fromkeys(("properties", "required", "additionalProperties"), frozenset({"object"})),
    **dict.fromkeys(("minProperties", "maxProperties"), frozenset({"object"})),
    **dict.fromkeys(("pattern", "format"), frozenset({"string"})),
}


class Culprit(NamedTuple):
    """A keyword, if it could be told, and the part of the schema that it stands in."""

    place: str
    keyword: str | None

    def __str__(self) -> str:
        where = f"at {self.place}" if self.place else "at the top"
        return f"{self.keyword!r} {where}" if self.keyword else f"what stands {where}"


def culprit(schema: Schema, accepts: Callable[[Schema], bool]) -> Culprit:
    """In a schema that is refused: the smallest part that is refused by itself, and the keyword that makes it so."""
    place, part = "", schema
    shared = {name: schema[name] for name in SHARED if name in schema}
    if not accepts({name: value for name, value in shared.items() if name == "$schema"}):
        return Culprit("", "$schema")
    while found := next((sub for sub in subschemas(part) if not _accepted(sub[1], shared, accepts)), None):
        place, part = f"{place}/{found[0]}".lstrip("/"), found[1]
    names = sorted(part.keys() - set(SHARED), key=lambda name: (name in TRIED_LAST, list(part).index(name)))
    for name in names:
        if accepts(shared | {other: value for other, value in part.items() if other != name}):
            return Culprit(place, name)
    return Culprit(place, None)


def _accepted(part: Schema, shared: Schema, accepts: Callable[[Schema], bool]) -> bool:
    """What refers to the whole schema cannot be tried without it."""
    return '"$ref": "#"' in json.dumps(part) or accepts(shared | part)


def unheld(schema: Schema, backend: str) -> Culprit | None:
    """The first keyword that this backend would pass over."""
    held = HELD.get(backend)
    if held is None:
        return None
    parts = [("", schema)]
    while parts:
        place, part = parts.pop()
        keyword = next((name for name in part if name not in ANNOTATIONS and _is_passed_over(name, part, held)), None)
        if keyword is not None:
            return Culprit(place, keyword)
        parts += [(f"{place}/{below}".lstrip("/"), sub) for below, sub in subschemas(part)]
    return None


def _is_passed_over(name: str, part: Schema, held: frozenset[str]) -> bool:
    if name not in held or (name == "$ref" and not str(part[name]).startswith("#")):
        return True
    alone = [other for other in ALONE if other in part and other != name]
    if alone and not (name == "type" and _all_of_type(part)):
        return True
    if name == "required":
        return not set(part[name]) <= set(part.get("properties", ()))
    return name in NEEDS_TYPE and not _types(part) & NEEDS_TYPE[name]


def _all_of_type(part: Schema) -> bool:
    """Whether the values that a part lists are of its own type: then that says nothing more."""
    values = [part["const"]] if "const" in part else part.get("enum", [None])
    allowed = tuple(of for name in _types(part) for of in PYTHON_TYPES.get(name, ()))
    return all(type(value) in allowed for value in values)


def _types(part: Schema) -> set[str]:
    types = part.get("type", [])
    return {types} if isinstance(types, str) else set(types)


def subschemas(part: Schema) -> Iterator[tuple[str, Schema]]:
    """The schemas right below one, with the way to them; definitions first."""
    for name in BY_NAME:
        if isinstance(part.get(name), dict):
            yield from ((f"{name}/{key}", sub) for key, sub in part[name].items() if isinstance(sub, dict))
    for name in LISTED:
        if isinstance(part.get(name), list):
            yield from ((f"{name}/{number}", sub) for number, sub in enumerate(part[name]) if isinstance(sub, dict))
    yield from ((name, part[name]) for name in SINGLE if isinstance(part.get(name), dict))
