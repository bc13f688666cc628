"""README.md's table of the speed, and its plot, from figures that `python -m bench settings` wrote.

bench/results/speed.toml says which. The table is replaced between two comments; the plot needs the extra [plots].
"""

import argparse
import statistics
import textwrap
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bench.processes import ROOT
from bench.settings import Figure, SettingsReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESULTS = ROOT / "bench" / "results"
README = ROOT / "README.md"
TITLE_CHARACTERS = 56
PLOT = ROOT / "docs" / "speed.svg"
BEGIN, END = "<!-- made by `python -m bench readme` -->", "<!-- end -->"


class Comparison(msgspec.Struct, forbid_unknown_fields=True):
    """Sides of one file of figures, on one kind of lengths."""

    title: str
    file: str
    lengths: str
    sides: dict[str, str]  # as the file calls them, and as they are shown

    def figures(self) -> dict[str, Figure]:
        """As they are shown."""
        report = msgspec.json.decode((RESULTS / self.file).read_bytes(), type=SettingsReport)
        found = {figure.side: figure for figure in report.figures if figure.lengths == self.lengths and figure.runs}
        return {shown: found[name] for name, shown in self.sides.items()}


class Shown(msgspec.Struct, forbid_unknown_fields=True):
    """speed.toml."""

    comparison: list[Comparison]


def read(path: Path = RESULTS / "speed.toml") -> Shown:
    """What is shown."""
    return msgspec.convert(tomllib.loads(path.read_text()), Shown)


def table(shown: Shown) -> str:
    """In markdown."""
    lines = []
    for comparison in shown.comparison:
        lines += [
            f"| {comparison.title} | output tokens/s | slowest to fastest run | to Phalanx | of what memory allows |",
            "|---|---|---|---|---|",
        ]
        figures = comparison.figures()
        ours = statistics.median(next(iter(figures.values())).tokens_per_s)
        for name, figure in figures.items():
            rates, median = figure.tokens_per_s, statistics.median(figure.tokens_per_s)
            floor = f"{median / figure.floor:.0%}" if figure.floor else ""
            spread = f"{min(rates):,.0f} to {max(rates):,.0f} ({len(rates)})"
            lines.append(f"| {name} | {median:,.0f} | {spread} | {median / ours:.2f} | {floor} |")
        lines.append("")
    return "\n".join(lines)


def put(text: str, made: str) -> str:
    """README's text with the table in its place. Raises ValueError where that is not marked."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md has no place for the table: {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{made}\n{END}{after}"


def draw(shown: Shown, path: Path) -> None:
    """Bars of the medians, with the spread of the runs: the same figures give the same bytes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    mpl.rcParams.update({"svg.hashsalt": "phalanx", "svg.fonttype": "none", "font.size": 9})
    rows = sum(len(comparison.sides) for comparison in shown.comparison)
    canvas = Canvas(figsize=(7.2, 0.8 * len(shown.comparison) + 0.32 * rows), layout="constrained")
    ratios = [len(comparison.sides) for comparison in shown.comparison]
    axes = canvas.subplots(len(ratios), 1, squeeze=False, gridspec_kw={"height_ratios": ratios})
    for one, comparison in zip(axes[:, 0], shown.comparison, strict=True):
        _bars(one, comparison)
    canvas.savefig(path, metadata={"Date": None, "Creator": None})


def _bars(axes: "Axes", comparison: Comparison) -> None:
    figures = comparison.figures()
    names = [name.replace("`", "") for name in figures]
    medians = [statistics.median(figure.tokens_per_s) for figure in figures.values()]
    spread = [
        [median - min(figure.tokens_per_s) for median, figure in zip(medians, figures.values(), strict=True)],
        [max(figure.tokens_per_s) - median for median, figure in zip(medians, figures.values(), strict=True)],
    ]
    colours = ["tab:blue" if name.startswith("Phalanx") else "tab:grey" for name in names]
    axes.barh(names, medians, xerr=spread, color=colours, error_kw={"linewidth": 1, "capsize": 2})
    axes.invert_yaxis()
    axes.set_title(textwrap.fill(comparison.title, TITLE_CHARACTERS), fontsize=9, loc="left")
    axes.xaxis.set_major_formatter(lambda tokens, _: f"{tokens / 1000:g}k")
    axes.set_xlabel("output tokens/s")


def main(arguments: list[str], prog: str) -> int:
    """0 once both are written."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("--plot", type=Path, default=PLOT, help="(%(default)s)")
    given = parser.parse_args(arguments)
    shown = read()
    README.write_text(put(README.read_text(), table(shown)))
    draw(shown, given.plot)
    return 0
