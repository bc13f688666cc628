"""Many tenants with small batches beside one with a million items: how long the small ones wait."""

import random
import statistics

import msgspec

from app.dispatch.item import Owner
from app.dispatch.placement import Dispatch
from bench.scale.gateway import SimulatedGateway
from bench.scale.timeline import Timeline
from bench.scale.work import Batch, Lengths

LARGE = Owner("large")
FILL_S = 10.0  # the large batch is alone
MOST_S = 200.0  # for the last small batch to be done


class Waits(msgspec.Struct, frozen=True, kw_only=True):
    """Of the small batches, in seconds: until the first item went to a rank, and until all have their results."""

    ranks: int
    lengths: str
    beside: str
    batches: int
    batch_items: int
    start_p50_s: float
    start_p99_s: float
    done_p50_s: float
    done_p99_s: float
    refusals: int


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """What two tenants who always have something waiting got of the ranks."""

    ranks: int
    weights: tuple[int, int]
    tokens: tuple[int, int]

    @property
    def ratio(self) -> float:
        """Tokens of the second one for each of the first."""
        return self.tokens[1] / self.tokens[0]


def measure_waits(
    ranks: int,
    lengths: Lengths,
    *,
    is_beside_large: bool,
    tenants: int = 50,
    batch_items: int = 50,
    span_s: float = 20.0,
) -> Waits:
    """Each tenant sends four batches, at times of its own."""
    gateway = SimulatedGateway(Timeline(), ranks, dispatch=Dispatch.ROUND_ROBIN)
    chance = random.Random(3)
    if is_beside_large:
        gateway.feed(1_000_000, lengths, LARGE, seed=3)
    small: list[Batch] = []

    def come(tenant: int) -> None:
        small.append(gateway.submit(batch_items, lengths, Owner(f"tenant {tenant}"), seed=len(small)))

    count = 4 * tenants
    for number in range(count):
        gateway.timeline.after(FILL_S + chance.uniform(0, span_s), lambda number=number: come(number % tenants))
    gateway.run(FILL_S + span_s)
    while not all(batch.is_done for batch in small) and gateway.timeline.now_s < MOST_S:
        gateway.run(gateway.timeline.now_s + 1.0)
    assert len(small) == count and all(batch.is_done for batch in small), "a small batch starves"
    starts = [(batch.started_s or 0.0) - batch.came_s for batch in small]
    done = [batch.ended_s - batch.came_s for batch in small]
    return Waits(
        ranks=ranks,
        lengths=lengths.name,
        beside="a million" if is_beside_large else "nothing",
        batches=count,
        batch_items=batch_items,
        start_p50_s=round(statistics.median(starts), 3),
        start_p99_s=round(_p99(starts), 3),
        done_p50_s=round(statistics.median(done), 3),
        done_p99_s=round(_p99(done), 3),
        refusals=gateway.refusals,
    )


def measure_shares(ranks: int, lengths: Lengths, weights: tuple[int, int], until_s: float = 90.0) -> Shares:
    """Both have a batch that does not end meanwhile."""
    gateway = SimulatedGateway(Timeline(), ranks)
    batches = [gateway.feed(2_000_000, lengths, Owner(f"weight {weight}", weight), seed=weight) for weight in weights]
    gateway.run(until_s / 3)
    before = [batch.tokens for batch in batches]
    gateway.run(until_s)
    got = [batch.tokens - had for batch, had in zip(batches, before, strict=True)]
    return Shares(ranks=ranks, weights=weights, tokens=(got[0], got[1]))


def _p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1))]


def table(waits: list[Waits], shares: list[Shares]) -> str:
    """For people."""
    lines = [
        "| ranks | lengths | beside | first item sent after, p50 | p99 | done after, p50 | p99 |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in waits:
        lines.append(
            f"| {one.ranks} | {one.lengths} | {one.beside} | {one.start_p50_s:.2f} s | {one.start_p99_s:.2f} s "
            f"| {one.done_p50_s:.2f} s | {one.done_p99_s:.2f} s |"
        )
    lines.append("")
    for share in shares:
        lines.append(
            f"{share.ranks} ranks, weights {share.weights[0]} and {share.weights[1]}: {share.ratio:.3f} tokens of the "
            "second tenant for each of the first"
        )
    return "\n".join(lines)
