"""The keyword that cannot be held is found, with its place."""

import json
from typing import Any

import pytest

from engines.vllm_engine.schema_keywords import culprit, unheld

BAD = {"not": {"type": "null"}}


def accepts(schema: dict[str, Any]) -> bool:
    """As a compiler does that knows no `not`, and no empty ranges, and looks at definitions when they are used."""
    if '"$ref"' not in json.dumps(schema):
        schema = {name: value for name, value in schema.items() if name != "$defs"}
    return '"not"' not in json.dumps(schema) and schema.get("minItems", 0) <= schema.get("maxItems", 99)


@pytest.mark.parametrize(
    ("schema", "found"),
    [
        (BAD, "'not' at the top"),
        ({"type": "object", "properties": {"a": {"type": "array", "items": BAD}}}, "'not' at properties/a/items"),
        ({"$ref": "#/$defs/a", "$defs": {"a": BAD}}, "'not' at $defs/a"),
        ({"anyOf": [{}, {"items": [{}, BAD]}]}, "'not' at anyOf/1/items/1"),
        ({"properties": {"x": {"type": "array", "minItems": 3, "maxItems": 2}}}, "'minItems' at properties/x"),
    ],
)
def test_what_a_compiler_refuses_is_found_by_trying(schema: dict[str, Any], found: str) -> None:
    assert str(culprit(schema, accepts)) == found


def test_two_keywords_that_are_both_at_fault_are_told_by_their_place() -> None:
    schema = {"items": {"if": {}, "then": {}}}
    assert (
        str(culprit(schema, lambda part: not {"if", "then"} & part.get("items", part).keys())) == "what stands at items"
    )


HELD = [
    {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False},
    {"type": ["integer", "null"], "minimum": 1, "description": "d"},
    {"type": "string", "enum": ["a", "b"]},
    {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {"type": "boolean"}}},
]
PASSED_OVER = [
    ({"type": "string", "maxLength": 8}, "'maxLength' at the top"),
    ({"type": "object", "anyOf": [{"required": ["a"]}]}, "'type' at the top"),
    ({"type": "string", "allOf": [{"maxLength": 3}]}, "'allOf' at the top"),
    ({"properties": {"a": {"oneOf": [{}]}}, "type": "object"}, "'oneOf' at properties/a"),
    ({"type": "object", "properties": {}, "required": ["b"]}, "'required' at the top"),
    ({"type": "array", "items": BAD}, "'not' at items"),
    ({"type": "object", "dependentRequired": {"a": ["b"]}}, "'dependentRequired' at the top"),
    ({"minimum": 3}, "'minimum' at the top"),
    ({"$ref": "http://127.0.0.1/x"}, "'$ref' at the top"),
    ({"type": "string", "enum": ["a", 1]}, "'type' at the top"),
    ({"$ref": "#/$defs/a", "enum": [1], "$defs": {"a": {}}}, "'$ref' at the top"),
]


@pytest.mark.parametrize("schema", HELD)
def test_what_xgrammar_holds_is_let_through(schema: dict[str, Any]) -> None:
    assert unheld(schema, "xgrammar") is None


@pytest.mark.parametrize(("schema", "found"), PASSED_OVER)
def test_what_xgrammar_would_pass_over_is_found(schema: dict[str, Any], found: str) -> None:
    assert str(unheld(schema, "xgrammar")) == found


def test_guidance_says_by_itself_what_it_does_not_hold() -> None:
    assert all(unheld(schema, "guidance") is None for schema, _ in PASSED_OVER)
