"""The flags of `phalanx serve`, read off the settings: name, spellings, help, default and variable.

Values stay as they were typed: the settings convert and check them, so that a flag and its variable accept the same
and complain in the same words.
"""

import functools
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import click
from pydantic import ByteSize
from pydantic.fields import FieldInfo

from app.settings.declaration import SECTIONS, spellings, variable

AFTER_DASHES = "extra_args"  # has no flag: it is what stands after --
METAVARS = {ByteSize: "SIZE", bool: "", int: "N", float: "X", dict: "JSON", list: "A,B", Path: "FOLDER", str: "TEXT"}


class SettingOption(click.Option):
    """A flag that stands for a setting. `section` is its heading in --help."""

    section: str


@functools.cache
def setting_options() -> tuple[SettingOption, ...]:
    """A flag for every setting, in the order of --help."""
    return tuple(
        _option(name, field, section.__doc__ or "")
        for section in SECTIONS
        for name, field in section.model_fields.items()
        if name != AFTER_DASHES
    )


def _option(name: str, field: FieldInfo, section: str) -> SettingOption:
    flags = spellings(name)
    is_switch = bool in _leaves(field.annotation)
    if is_switch:  # a letter alone has no opposite
        flags = [f"{spelling}/--no-{spelling[2:]}" if spelling.startswith("--") else spelling for spelling in flags]
    option = SettingOption(
        [name, *flags],
        is_flag=is_switch,
        default=None,
        type=None if is_switch else click.STRING,
        metavar=None if is_switch else _metavar(name, field),
        help=_help(name, field),
    )
    option.section = section
    return option


def _help(name: str, field: FieldInfo) -> str:
    default = field.default
    if isinstance(default, bool):
        default = "on" if default else "off"
    shown = "" if default in (None, "", [], {}) else f"default: {default}; "
    return f"{field.description}  [{shown}{variable(name)}]"


def _metavar(name: str, field: FieldInfo) -> str:
    """What stands for the value in --help: the choices, or the kind of value."""
    leaves = list(_leaves(field.annotation))
    choices = [str(leaf) for leaf in leaves if not isinstance(leaf, type)]
    if choices:
        return "|".join(choices)
    if name.endswith("_s"):
        return "TIME"
    return "FILE" if name.endswith("_file") else METAVARS[leaves[0]]


def _leaves(annotation: Any) -> Iterator[Any]:  # Any: types, and the values of literals and enums
    """The types that a value may have, None left out, and for a closed list its values."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        yield from arguments
    elif origin is Annotated:
        yield from _leaves(arguments[0])
    elif origin in (dict, list):
        yield origin
    elif arguments:  # a union
        for argument in arguments:
            yield from _leaves(argument)
    elif isinstance(annotation, type) and issubclass(annotation, StrEnum):
        yield from [str(value) for value in annotation]
    elif annotation is not type(None):
        yield annotation
