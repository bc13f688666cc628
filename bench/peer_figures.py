"""What `python -m bench peers` found: shots, what the best possible would be, and the tables."""

import heapq
from collections.abc import Iterable, Sequence

import msgspec

from bench.side_table import Cell, Column, table


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


HTTP_CPU = Column[Shot]("us of the HTTP process", "{:.1f}", lambda shot: shot.http_us)
ALL_CPU = Column[Shot]("us of all processes", "{:.1f}", lambda shot: shot.all_us)


def cost_table(cells: list[Cell[Shot]], reference: str) -> str:
    """Throughput and CPU, with ratios to the side `reference`."""
    rate = Column[Shot]("items/s", "{:.0f}", lambda shot: shot.items_per_s)
    return table(cells, reference, [rate, HTTP_CPU, ALL_CPU])


def time_table(cells: list[Cell[Shot]], reference: str, best: Ideal) -> str:
    """Wall time beside the ideal, with ratios to the side `reference`."""
    seconds = Column[Shot]("seconds", "{:.3f}", lambda shot: shot.seconds)
    beside = Column[Shot]("/ ideal", "{:.3f}", lambda shot: shot.seconds / best.best_s, has_ratio=False)
    note = (
        f"Ideal: {best.best_s:.3f} s. In the order of the items: {best.in_order_s:.3f} s where the next one takes the "
        f"first free slot of any worker, {best.static_s:.3f} s where they are dealt out to the workers beforehand."
    )
    return f"{table(cells, reference, [seconds, beside, HTTP_CPU, ALL_CPU])}\n\n{note}"
