"""What `python -m bench peers` found: shots, what the best possible would be, and the tables."""

import heapq
import statistics
from collections.abc import Callable, Iterable, Sequence

import msgspec


class Shot(msgspec.Struct, kw_only=True):
    """One load on one side, once."""

    seconds: float
    items: int
    http_us: float  # CPU of the HTTP process, an item
    all_us: float  # of all processes of the side, an item

    @property
    def items_per_s(self) -> float:
        """Throughput."""
        return self.items / self.seconds


class Cell(msgspec.Struct, kw_only=True):
    """All shots of one load on one side."""

    load: str
    side: str
    shots: list[Shot] = []
    failures: list[str] = []


class Ideal(msgspec.Struct, kw_only=True):
    """How long all items take where nothing costs anything but their steps, and all are there at once."""

    best_s: float  # no order and no split can be faster
    in_order_s: float  # whatever comes next takes the first slot that is free, of any worker
    static_s: float  # items are dealt out to the workers beforehand, in turns


def makespan(steps: Iterable[int], slots: int) -> int:
    """Steps until the last item ends, if each takes the first slot that is free, in order."""
    ends = [0] * slots
    for count in steps:
        heapq.heapreplace(ends, ends[0] + count)
    return max(ends)


def ideal(steps: Sequence[int], workers: int, slots: int, step_s: float) -> Ideal:
    """For items of so many steps each."""
    shares = (steps[worker::workers] for worker in range(workers))
    return Ideal(
        best_s=max(*steps, -(-sum(steps) // (workers * slots))) * step_s,
        in_order_s=makespan(steps, workers * slots) * step_s,
        static_s=max(makespan(share, slots) for share in shares) * step_s,
    )


def cost_table(cells: list[Cell], reference: str) -> str:
    """Throughput and CPU, with ratios to the side `reference`."""
    columns: list[tuple[str, str, Callable[[Shot], float]]] = [
        ("items/s", "{:.0f}", lambda shot: shot.items_per_s),
        ("us of the HTTP process", "{:.1f}", lambda shot: shot.http_us),
        ("us of all processes", "{:.1f}", lambda shot: shot.all_us),
    ]
    return _table(cells, reference, columns)


def time_table(cells: list[Cell], reference: str, best: Ideal) -> str:
    """Wall time beside the ideal, with ratios to the side `reference`."""
    columns: list[tuple[str, str, Callable[[Shot], float]]] = [
        ("seconds", "{:.3f}", lambda shot: shot.seconds),
        ("/ ideal", "{:.3f}", lambda shot: shot.seconds / best.best_s),
        ("us of all processes", "{:.1f}", lambda shot: shot.all_us),
    ]
    note = (
        f"Ideal: {best.best_s:.3f} s. In the order of the items: {best.in_order_s:.3f} s where the next one takes the "
        f"first free slot of any worker, {best.static_s:.3f} s where they are dealt out to the workers beforehand."
    )
    return f"{_table(cells, reference, columns)}\n\n{note}"


def _table(cells: list[Cell], reference: str, columns: list[tuple[str, str, Callable[[Shot], float]]]) -> str:
    heads = [head for name, _, _ in columns for head in (name, f"/ {reference}")]
    lines = [f"| load | side | {' | '.join(heads)} | runs |", "|---|---|" + "---|" * (len(heads) + 1)]
    ours = {cell.load: cell for cell in cells if cell.side == reference and cell.shots}
    for cell in cells:
        if not cell.shots:
            lines.append(f"| {cell.load} | {cell.side} | failed |{' |' * len(heads)}")
            continue
        shown = []
        for _, form, value in columns:
            values = [value(shot) for shot in cell.shots]
            shown.append(f"{_spread(values, form)} | {_ratio(values, ours.get(cell.load), value)}")
        again = f" ({len(cell.failures)} failed)" if cell.failures else ""
        lines.append(f"| {cell.load} | {cell.side} | {' | '.join(shown)} | {len(cell.shots)}{again} |")
    reasons = [f"- {cell.load}, {cell.side}: {cell.failures[-1].splitlines()[0]}" for cell in cells if cell.failures]
    return "\n".join(lines + (["", "Failed:", "", *reasons] if reasons else []))


def _spread(values: list[float], form: str) -> str:
    low, middle, high = (form.format(value) for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"


def _ratio(values: list[float], under: Cell | None, value: Callable[[Shot], float]) -> str:
    if under is None:
        return ""
    below = statistics.median(value(shot) for shot in under.shots)
    return f"{statistics.median(values) / below:.2f}" if below else ""
