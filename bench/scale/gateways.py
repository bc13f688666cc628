"""Several gateways, each before ranks of its own, against one before all of them."""

import random
import statistics
import zlib
from collections.abc import Callable

import msgspec

from app.dispatch.item import Owner
from bench.scale.gateway import SimulatedGateway
from bench.scale.timeline import Timeline
from bench.scale.work import Batch, Lengths

SPAN_S = 20.0  # in which the batches come
MOST_ITEMS = 100_000
SINGLE = Owner("the one with a single batch")
SINGLE_ITEMS, SINGLE_COMES_S = 40_000, 10.0
Choose = Callable[[list[SimulatedGateway], int], SimulatedGateway]  # which gateway takes batch number so


def by_hash(gateways: list[SimulatedGateway], number: int) -> SimulatedGateway:
    """As a balancer does that knows nothing of them, or keeps a client with its gateway."""
    return gateways[zlib.crc32(b"batch %d" % number) % len(gateways)]


def by_load(gateways: list[SimulatedGateway], number: int) -> SimulatedGateway:
    """To the one with the fewest tokens before it, as each was told how many it has."""
    return min(gateways, key=lambda gateway: sum(_left(batch) for batch in gateway.batches))


def _left(batch: Batch) -> int:
    return batch.size - batch.ended


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The same batches, shared out one way."""

    name: str
    gateways: int
    ranks: int
    items: int
    seconds: float  # until all is done
    imbalance: float  # max / mean of all ranks' tokens
    gateway_imbalance: float  # of the gateways' tokens
    turnaround_p50_s: float
    turnaround_p99_s: float
    single_s: float  # for a tenant who has one batch, amid one who has all others


def measure_gateways(
    name: str,
    gateways: int,
    ranks: int,
    choose: Choose,
    lengths: Lengths,
    *,
    batches: int = 300,
    mean_items: int = 2000,
) -> Comparison:
    """All come within twenty seconds. Sizes are long-tailed, too."""
    timeline, chance = Timeline(), random.Random(5)
    served = [SimulatedGateway(timeline, ranks // gateways) for _ in range(gateways)]
    came: list[Batch] = []
    sizes = [max(1, min(MOST_ITEMS, int(chance.lognormvariate(0, 1.5) * mean_items / 3.08))) for _ in range(batches)]
    for number, size in enumerate(sizes):

        def come(number: int = number, size: int = size) -> None:
            came.append(choose(served, number).feed(size, lengths, Owner("others"), seed=number))

        timeline.after(chance.uniform(0, SPAN_S), come)
    single: list[Batch] = []
    timeline.after(
        SINGLE_COMES_S, lambda: single.append(choose(served, batches).feed(SINGLE_ITEMS, lengths, SINGLE, seed=batches))
    )
    for gateway in served:
        gateway.run()
    assert all(batch.is_done for batch in (*came, *single))
    tokens = [[share.prompt_tokens + share.completion_tokens for share in g.stats.summary().ranks] for g in served]
    every = [one for of_gateway in tokens for one in of_gateway]
    turnarounds = sorted(batch.ended_s - batch.came_s for batch in came)
    return Comparison(
        name=name,
        gateways=gateways,
        ranks=ranks,
        items=sum(sizes) + SINGLE_ITEMS,
        seconds=round(max(batch.ended_s for batch in (*came, *single)), 2),
        imbalance=round(max(every) * ranks / sum(every), 3),
        gateway_imbalance=round(max(map(sum, tokens)) * gateways / sum(every), 3),
        turnaround_p50_s=round(statistics.median(turnarounds), 2),
        turnaround_p99_s=round(turnarounds[int(0.99 * (len(turnarounds) - 1))], 2),
        single_s=round(single[0].ended_s - single[0].came_s, 2),
    )


def table(found: list[Comparison]) -> str:
    """For people."""
    lines = [
        "| | items | all done after | max/mean tokens of ranks | of gateways | a batch takes, p50 | p99 "
        "| the only batch of a tenant |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        lines.append(
            f"| {one.name} | {one.items:,} | {one.seconds:.1f} s | {one.imbalance:.2f} | {one.gateway_imbalance:.2f} "
            f"| {one.turnaround_p50_s:.1f} s | {one.turnaround_p99_s:.1f} s | {one.single_s:.1f} s |"
        )
    return "\n".join(lines)
