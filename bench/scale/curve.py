"""One large batch on more and more ranks: what dispatch costs an item, and how near the ranks come to the ideal, in
which all of them are full from the first second to the last."""

import random

import msgspec

from app.dispatch.placement import Dispatch
from bench.scale.gateway import SimulatedGateway
from bench.scale.timeline import Timeline
from bench.scale.work import Lengths


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One batch on so many ranks."""

    ranks: int
    group_size: int
    lengths: str
    dispatch: str
    items: int
    seconds: float  # simulated
    ideal_share: float  # of the throughput of ranks that are always full
    imbalance: float  # max / mean of the ranks' tokens
    tail_s: float  # from the first rank running dry to the end
    drain_s: float  # from the last item sent to a rank to the end
    cpu_us: float  # of the real dispatcher and admission, per item
    items_per_pass: float  # of the event loop

    @property
    def dispatched_per_s(self) -> float:
        """Items that one core could dispatch, and nothing else."""
        return 1e6 / self.cpu_us


def measure_point(
    ranks: int,
    lengths: Lengths,
    dispatch: Dispatch,
    items_per_rank: int,
    *,
    group_size: int = 1,
    comes_whole: bool = False,
) -> Point:
    """Runs the batch to its end. It comes in windows, or whole."""
    gateway = SimulatedGateway(Timeline(), ranks, group_size=group_size, dispatch=dispatch)
    batch = (gateway.submit if comes_whole else gateway.feed)(items_per_rank * ranks, lengths, seed=1)
    gateway.run()
    stats, seconds = gateway.stats.summary(), gateway.timeline.now_s
    per_rank = gateway.speed.items_per_s(lengths.prompt_tokens, lengths.mean_tokens(random.Random(0)))
    return Point(
        ranks=ranks,
        group_size=group_size,
        lengths=lengths.name + (", whole" if comes_whole else ""),
        dispatch=str(dispatch),
        items=batch.size,
        seconds=round(seconds, 3),
        ideal_share=round(batch.size / seconds / (ranks * per_rank), 4),
        imbalance=round(1 / (stats.balance_ratio or 1.0), 4),
        tail_s=round(stats.tail_s, 3),
        drain_s=round(seconds - batch.last_start_s, 3),
        cpu_us=round(gateway.cpu_s / batch.size * 1e6, 2),
        items_per_pass=round(batch.size / gateway.passes, 1),
    )


def table(points: list[Point]) -> str:
    """For people."""
    lines = [
        "| ranks | a group | lengths | dispatch | CPU us an item | items/s of one core | of the ideal "
        "| max/mean tokens | tail s | drain s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for point in points:
        lines.append(
            f"| {point.ranks} | {point.group_size} | {point.lengths} | {point.dispatch} | {point.cpu_us:.1f} "
            f"| {point.dispatched_per_s:,.0f} | {point.ideal_share:.3f} | {point.imbalance:.3f} | {point.tail_s:.2f} "
            f"| {point.drain_s:.1f} |"
        )
    return "\n".join(lines)
