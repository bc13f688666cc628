"""What a structure says beside what is asked for is honoured or refused by name."""

from types import SimpleNamespace
from typing import Any

import pytest

from engines.vllm_engine.structure_options import StructureRefused, arranged

SCHEMA = {"type": "object"}


def config(backend: str = "guidance", **settings: bool) -> Any:
    return SimpleNamespace(
        backend=backend, **{"disable_any_whitespace": False, "disable_additional_properties": False} | settings
    )


def refusal(structure: dict[str, Any], settings: Any) -> str:
    with pytest.raises(StructureRefused) as refused:
        arranged(structure, settings)
    return refused.value.error.message


def test_no_whitespace_is_for_the_compiler_to_see_to() -> None:
    compact = {"type": "object", "x-guidance": {"whitespace_flexible": False}}
    assert arranged({"json": SCHEMA, "disable_any_whitespace": True}, config()) == {"json": compact}
    assert arranged({"json_object": True, "disable_any_whitespace": True}, config()) == {"json": compact}
    as_text = arranged({"json": '{"const": 1180591620717411303424}', "disable_any_whitespace": True}, config())["json"]
    assert as_text == '{"const": 1180591620717411303424, "x-guidance": {"whitespace_flexible": false}}'


@pytest.mark.parametrize("name", ["disable_any_whitespace", "disable_additional_properties"])
def test_what_is_so_anyhow_needs_nothing(name: str) -> None:
    assert arranged({"json": SCHEMA, name: False}, config()) == {"json": SCHEMA}
    assert arranged({"json": SCHEMA, name: True}, config("xgrammar", **{name: True})) == {"json": SCHEMA}


@pytest.mark.parametrize(
    ("structure", "settings", "name"),
    [
        ({"json": SCHEMA, "whitespace_pattern": " "}, config(), "whitespace_pattern"),
        ({"json": SCHEMA, "disable_any_whitespace": True}, config("xgrammar"), "disable_any_whitespace"),
        ({"regex": "a", "disable_any_whitespace": True}, config(), "disable_any_whitespace"),
        ({"regex": "a", "disable_additional_properties": True}, config(), "disable_additional_properties"),
        (
            {"json": SCHEMA, "disable_additional_properties": False},
            config(disable_additional_properties=True),
            "disable_additional_properties",
        ),
        ({"json": SCHEMA | {"x-guidance": {"lenient": True}}}, config(), "x-guidance"),
        ({"json": '{"x-guidance": {"lenient": true}}'}, config(), "x-guidance"),
    ],
)
def test_what_would_be_ignored_is_refused_by_name(structure: dict[str, Any], settings: Any, name: str) -> None:
    assert name in refusal(structure, settings)
