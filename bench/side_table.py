"""A comparison as a markdown table: a row for each load and side, with medians, spread, and ratios to one side."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

Shot = TypeVar("Shot")


class Cell(msgspec.Struct, Generic[Shot], kw_only=True):
    """All shots of one load on one side."""

    load: str
    side: str
    shots: list[Shot] = []
    failures: list[str] = []


@dataclass(frozen=True)
class Column(Generic[Shot]):
    """A figure of a shot. Beside it stands its ratio to that of the side of reference, unless there is to be none."""

    name: str
    form: str
    value: Callable[[Shot], float]
    has_ratio: bool = True


def table(cells: list[Cell[Shot]], reference: str, columns: list[Column[Shot]]) -> str:
    """The rows, and below them why loads failed. `reference` is the side that ratios are to."""
    heads = [head for column in columns for head in (column.name, *([f"/ {reference}"] * column.has_ratio))]
    lines = [f"| load | side | {' | '.join(heads)} | runs |", "|---|---|" + "---|" * (len(heads) + 1)]
    below = {cell.load: cell for cell in cells if cell.side == reference and cell.shots}
    for cell in cells:
        if not cell.shots:
            lines.append(f"| {cell.load} | {cell.side} | failed |{' |' * len(heads)}")
            continue
        shown: list[str] = []
        for column in columns:
            values = [column.value(shot) for shot in cell.shots]
            shown.append(_spread(values, column.form))
            if column.has_ratio:
                shown.append(_ratio(values, below.get(cell.load), column))
        again = f" ({len(cell.failures)} failed)" if cell.failures else ""
        lines.append(f"| {cell.load} | {cell.side} | {' | '.join(shown)} | {len(cell.shots)}{again} |")
    reasons = [f"- {cell.load}, {cell.side}: {cell.failures[-1].splitlines()[0]}" for cell in cells if cell.failures]
    return "\n".join(lines + (["", "Failed:", "", *reasons] if reasons else []))


def _spread(values: list[float], form: str) -> str:
    low, middle, high = (form.format(value) for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"


def _ratio(values: list[float], under: Cell[Shot] | None, column: Column[Shot]) -> str:
    if under is None:
        return ""
    median = statistics.median(column.value(shot) for shot in under.shots)
    return f"{statistics.median(values) / median:.2f}" if median else ""
