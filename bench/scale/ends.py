"""Where one gateway ends: throughput by the number of ranks, for what a whole gateway takes of one core for an item."""

import random

import msgspec

from bench.scale.gateway import SimulatedGateway
from bench.scale.timeline import Timeline
from bench.scale.work import Lengths

SETTLE_S, MEASURE_S = 6.0, 6.0


class End(msgspec.Struct, frozen=True, kw_only=True):
    """What so many ranks do behind a gateway of this cost."""

    ranks: int
    lengths: str
    gateway_us: float  # an item
    items_per_s: float
    ideal_items_per_s: float  # of the ranks alone

    @property
    def share(self) -> float:
        """Of the ideal."""
        return self.items_per_s / self.ideal_items_per_s


def measure_end(ranks: int, lengths: Lengths, gateway_us: float, *, settle_s: float = SETTLE_S) -> End:
    """A batch without an end, once the ranks have come into their stride."""
    gateway = SimulatedGateway(Timeline(), ranks, item_s=gateway_us * 1e-6)
    batch = gateway.feed(4_000_000, lengths, seed=4)
    gateway.run(settle_s)
    before = batch.ended
    gateway.run(settle_s + MEASURE_S)
    per_rank = gateway.speed.items_per_s(lengths.prompt_tokens, lengths.mean_tokens(random.Random(0)))
    return End(
        ranks=ranks,
        lengths=lengths.name,
        gateway_us=gateway_us,
        items_per_s=round((batch.ended - before) / MEASURE_S),
        ideal_items_per_s=round(ranks * per_rank),
    )


def table(ends: list[End]) -> str:
    """For people."""
    lines = ["| lengths | gateway us an item | ranks | items/s | of what the ranks could |", "|---|---|---|---|---|"]
    for end in ends:
        lines.append(f"| {end.lengths} | {end.gateway_us:g} | {end.ranks} | {end.items_per_s:,.0f} | {end.share:.3f} |")
    return "\n".join(lines)
