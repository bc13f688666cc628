"""How a resource describes itself: what its routes answer, and what its structs' fields mean.

Each resource has `ANSWERS` and `SCHEMAS` beside its routes; openapi.py makes the document of them. A struct that keeps
a part as the JSON it came in says nothing about that part: what it may hold stands in `opaque`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
from fastapi import APIRouter

Schema = dict[str, Any]  # Any: JSON
REF = "#/components/schemas/{name}"


@dataclass(frozen=True)
class Answers:
    """What a route answers, under its path, or under its method and path where several methods have one.

    A component on success (None: text, or bytes of `raw_types`), and these errors besides those of every route. A route
    that changes something, or that only admins may use, has 403 among them. `takes` is the component of its body, and
    `takes_line` that of each line, where the body may be lines. `line` is that of each line, where the answer may be a
    stream. `others` are components that a success may be instead, each with an example, and `also` those of other
    statuses of success. Examples are for /docs.
    """

    component: str | None
    errors: tuple[int, ...] = ()
    refused: str = "ErrorAnswer"  # the component of errors
    unavailable: str | None = None  # that of a 503, where it is another one
    success: int = 200
    example: Schema | None = None
    others: Mapping[str, Schema] = field(default_factory=dict)
    line: str | None = None
    other_types: tuple[str, ...] = ()  # media types that a success may have instead
    lines: tuple[Schema, ...] = ()  # examples of them, in their order
    takes: str | None = None
    needs_body: bool = True
    also: Mapping[int, str] = field(default_factory=dict)  # components of other successes
    requests: Mapping[str, Schema] = field(default_factory=dict)
    takes_line: str | None = None
    takes_form: Schema | None = None  # of the fields, where the body is a form
    raw_types: tuple[str, ...] = ()  # media types of a success that is bytes, whole or in part
    request_lines: tuple[Any, ...] = ()  # Any: JSON; examples of them, in their order


@dataclass(frozen=True)
class Described:
    """A struct that is read from requests, or written into answers."""

    struct: type[msgspec.Struct]
    is_read: bool = False
    opaque: Mapping[str, Schema] = field(default_factory=dict)  # of fields that are kept as JSON
    words: Mapping[str, Schema] = field(default_factory=dict)  # of fields that hold one of a closed list
    notes: Mapping[str, str] = field(default_factory=dict)  # what a field's name does not say

    @property
    def name(self) -> str:
        """Its component's."""
        return self.struct.__name__


class Resource(Protocol):
    """A module of this package with routes."""

    @property
    def router(self) -> APIRouter: ...
    @property
    def ANSWERS(self) -> Mapping[str, Answers]: ...  # noqa: N802  a module's constant
    @property
    def SCHEMAS(self) -> Iterable[Described]: ...  # noqa: N802  the same


def ref(name: str) -> Schema:
    """A reference to a component."""
    return {"$ref": REF.format(name=name)}


def or_null(schema: Schema) -> Schema:
    """The same, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def array_of(schema: Schema, **more: Any) -> Schema:  # Any: keywords of a schema
    """A list of these."""
    return {"type": "array", "items": schema, **more}


def one_of(words: Iterable[str]) -> Schema:
    """A closed list of words."""
    return {"type": "string", "enum": list(words)}
