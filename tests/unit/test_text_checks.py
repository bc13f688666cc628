"""Texts are judged by what a structure says, and what is said of them does not quote them."""

import json
import time
from typing import Any

import pytest

from engines.vllm_engine.text_checks import Uncheckable, text_check


def judged(structure: dict[str, Any], text: str) -> str | None:
    check = text_check(structure)
    assert check is not None
    return check(text)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "string", "maxLength": 8}, '"a\\u0001\u00e9"'),
        ({"type": "number", "minimum": 1e-7, "maximum": 2e-7}, "1.5e-7"),
        ({"type": "number", "multipleOf": 0.01}, "4.35"),
        ({"type": "string", "pattern": "^\\d{2}$"}, '"42"'),
        ({"anyOf": [{"required": ["a"]}, {"required": ["b"]}], "type": "object"}, '{"b": null}'),
        ('{"const": "as text"}', '"as text"'),
        ({"type": "integer"}, " \n7\t"),
        ({"type": "integer"}, "1" * 5000),
        ({"type": "number"}, "-1e999"),
        ({"minimum": 0.1, "maximum": 0.1, "const": 0.1}, "0.1"),
    ],
)
def test_json_that_satisfies_its_schema_passes(schema: str | dict[str, Any], text: str) -> None:
    assert judged({"json": schema}, text) is None


@pytest.mark.parametrize(
    ("schema", "text", "why"),
    [
        ({"type": "string", "maxLength": 8}, '"raw \x01"', "is no JSON, from character 5 on"),
        ({"type": "number"}, "", "is no JSON, from character 0 on"),
        ({"type": "number"}, "NaN", "is no JSON, from character 0 on"),
        ({"type": "boolean"}, "true<|eos|>", "is no JSON, from character 4 on"),
        ({"type": "string"}, '"\\ud800"', "has a character that cannot be encoded"),
        ({"maximum": 10}, "1e999", "does not satisfy maximum"),
        ({}, "[" * 100_000 + "]" * 100_000, "is nested too deeply to be read"),
        ({"properties": {"a": {"maxLength": 1}}}, '{"a": "secret"}', "does not satisfy properties/a/maxLength"),
        ({"required": ["id"]}, "{}", "does not satisfy required"),
        ({"type": "string", "pattern": "^\\d$"}, '"\u0663"', "does not satisfy pattern"),
        ({"type": "string", "format": "date"}, '"2026-02-30"', "does not satisfy format"),
    ],
)
def test_json_that_does_not_is_told_by_the_keyword(schema: dict[str, Any], text: str, why: str) -> None:
    assert judged({"json": schema}, text) == why


def test_any_object_is_an_object() -> None:
    assert judged({"json_object": True}, "{}") is None
    assert judged({"json_object": True}, "[]") == "does not satisfy type"


@pytest.mark.parametrize(
    ("regex", "right", "wrong"),
    [
        ("[a-c]{3}", "abc", "abcd"),
        ("cat|dog", "dog", "catdog"),
        ("^[ab]$", "a", "a\n"),
        ("(?i)yes", "YeS", "no"),
        ("\\w+", "\u00e9t\u00e9", "a b"),
        (".*", "one line", "two\nlines"),
        ("", "", "a"),
    ],
)
def test_a_regex_matches_the_whole_text(regex: str, right: str, wrong: str) -> None:
    assert judged({"regex": regex}, right) is None
    assert judged({"regex": regex}, wrong) == "does not match the regex"


def test_no_regex_goes_back() -> None:
    began = time.process_time()
    for structure in ({"regex": "(a+)+b"}, {"json": {"pattern": "^(a+)+b$"}}):
        text = "a" * 5000
        assert judged(structure, text if "regex" in structure else json.dumps(text)) is not None
    assert time.process_time() - began < 2, "a regex engine that goes back would take until the end of the world"


def test_a_choice_is_one_of_them() -> None:
    structure = {"choice": ["a", "ab"]}
    assert judged(structure, "ab") is None
    assert judged(structure, "abc") == "is none of the choices"


def test_grammars_and_tags_are_for_the_engine_to_judge() -> None:
    assert text_check({"grammar": 'start: "a"'}) is None
    assert text_check({"structural_tag": "{}"}) is None


@pytest.mark.parametrize(
    "structure",
    [
        {"json": {"$ref": "http://127.0.0.1:1/schema"}},
        {"json": {"$schema": "http://127.0.0.1:1/dialect"}},
        {"json": {"pattern": "(?=a)"}},
        {"json": {"exclusiveMinimum": True}},
        {"regex": "a\\hb"},
        {"regex": "(?<=a)b"},
    ],
)
def test_what_no_text_could_be_judged_by_is_refused_and_nothing_is_fetched(structure: dict[str, Any]) -> None:
    with pytest.raises(Uncheckable):
        text_check(structure)
