"""Prompts out of a text with `{column}` in it. No formats, attributes or indexes: a name is a column's name."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from phalanx.generate.errors import RowProblem, UsageProblem

PIECE = re.compile(r"(?P<brace>\{\{|\}\})|\{(?P<name>[^{}]*)\}|(?P<stray>[{}])")


class Template:
    """A parsed template. Raises UsageProblem for a brace without its pair."""

    def __init__(self, text: str) -> None:
        self._literals = [""]  # one more than there are columns
        self.columns: list[str] = []
        end = 0
        for piece in PIECE.finditer(text):
            self._literals[-1] += text[end : piece.start()]
            end = piece.end()
            if piece["stray"]:
                raise UsageProblem(
                    f"--template has a single {piece['stray']!r} at character {piece.start() + 1}: write "
                    f"{piece['stray'] * 2!r} for a brace, or {{column}} for a column"
                )
            if piece["brace"]:
                self._literals[-1] += piece["brace"][0]
            elif not piece["name"]:
                raise UsageProblem("--template has {} in it: name the column, as in {prompt}")
            else:
                self.columns.append(piece["name"])
                self._literals.append("")
        self._literals[-1] += text[end:]

    def fill(self, columns: Mapping[str, Any]) -> str:  # Any: values of all kinds
        """The text for a row. Raises RowProblem where it lacks a column, or has null there."""
        values = [as_text(name, columns) for name in self.columns]
        return self._literals[0] + "".join(
            value + literal for value, literal in zip(values, self._literals[1:], strict=True)
        )


def as_text(name: str, columns: Mapping[str, Any]) -> str:  # Any: values of all kinds
    """A column's value: text as it is, anything else as JSON. Raises RowProblem."""
    if name not in columns:
        raise RowProblem(f"the row has no column {name!r}")
    value = columns[name]
    if value is None:
        raise RowProblem(f"column {name!r} is null")
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
