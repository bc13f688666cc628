"""The plots of docs/scale.md, as SVG files: the same figures give the same bytes."""

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from bench.scale.command import Report

SIZE_INCHES = (6.4, 3.4)
mpl.rcParams.update(
    {"svg.hashsalt": "phalanx", "svg.fonttype": "none", "font.size": 9, "axes.grid": True, "axes.axisbelow": True}
)


def draw(report: "Report", folder: Path) -> None:
    """A file for each scenario that the report has."""
    folder.mkdir(parents=True, exist_ok=True)
    drawings = {
        "cost": (report.curve, _cost),
        "ends": (report.ends, _ends),
        "loss": (report.losses, _loss),
        "gateways": (report.gateways, _gateways),
    }
    for name, (figures, plot) in drawings.items():
        if figures:
            figure = Figure(figsize=SIZE_INCHES, layout="constrained")
            plot(report, figure.add_subplot())
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})


def _by_ranks(axes: Axes, ranks: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(number) for number in ranks])
    axes.set_xlabel("ranks")
    axes.legend()


def _cost(report: "Report", axes: Axes) -> None:
    points = [one for one in report.curve if one.group_size == 1 and one.dispatch == "round_robin"]
    for lengths in ("equal", "long-tailed"):
        line = [one for one in points if one.lengths == lengths]
        axes.plot([one.ranks for one in line], [one.cpu_us for one in line], marker="o", label=f"{lengths} answers")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("dispatch: CPU us an item")
    _by_ranks(axes, sorted({one.ranks for one in points}))


def _ends(report: "Report", axes: Axes) -> None:
    ideal = {one.ranks: one.ideal_items_per_s for one in report.ends}
    axes.plot(list(ideal), list(ideal.values()), color="grey", linestyle="--", label="the ranks alone")
    for cost in dict.fromkeys(one.gateway_us for one in report.ends):
        line = [one for one in report.ends if one.gateway_us == cost]
        label = f"a gateway of {cost:g} us an item"
        axes.plot([one.ranks for one in line], [one.items_per_s for one in line], marker="o", label=label)
    axes.set_yscale("log")
    axes.set_ylabel("items/s")
    _by_ranks(axes, list(ideal))


def _loss(report: "Report", axes: Axes) -> None:
    for one in report.losses:
        millions = [tokens / 1e6 for tokens in one.tokens_by_second]
        smooth = [sum(millions[second : second + 3]) / 3 for second in range(len(millions) - 3)]
        axes.plot(range(1, len(smooth) + 1), smooth, label=one.name)
    first = report.losses[0]
    for second, what in ((first.lost_at_s, "lost"), (first.lost_at_s + first.restart_s, "back")):
        axes.axvline(second, color="grey", linestyle=":")
        axes.annotate(
            what, (second, 0.94), xycoords=("data", "axes fraction"), xytext=(3, 0), textcoords="offset points"
        )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel("million tokens/s")
    axes.legend(loc="lower center")


def _gateways(report: "Report", axes: Axes) -> None:
    rows = {
        "all done": [one.seconds for one in report.gateways],
        "a batch, p50": [one.turnaround_p50_s for one in report.gateways],
        "a batch, p99": [one.turnaround_p99_s for one in report.gateways],
        "a tenant's only batch": [one.single_s for one in report.gateways],
    }
    width = 0.8 / len(report.gateways)
    for number, one in enumerate(report.gateways):
        places = [row + number * width for row in range(len(rows))]
        axes.bar(places, [values[number] for values in rows.values()], width, label=one.name)
    axes.set_xticks([row + width for row in range(len(rows))], list(rows))
    axes.set_ylabel("seconds")
    axes.legend()
