"""A lock-step group whose ranks are refilled together, beside the same group whose ranks are refilled one by one."""

import msgspec

from app.settings.declaration import Settings
from bench.scale.engine import Speed
from bench.scale.gateway import SimulatedGateway
from bench.scale.timeline import Timeline
from bench.scale.work import EQUAL, KNOWN, TAILED, Lengths

KV_CACHE_TOKENS = 1_812_155  # of a rank on an H200: bench/results/2026-11-26-h200x2-sequences.md

# What a step takes beyond Speed's base, which is that of one whole graph. Both are fitted to 512 sequences of an H100
# with long-tailed answers: with graphs to 1,024 tokens it made 1.78 times as many tokens as with graphs to 512
# (bench/results/2026-11-28-h100x4-speed.md), and makes 1.73 times as many by these.
GRAPHS = Speed(mixed_s=0.006, eager_s=0.03, kv_cache_tokens=KV_CACHE_TOKENS)
CHEAPER = msgspec.structs.replace(GRAPHS, mixed_s=0.002, eager_s=0.01)
ONE_MODE = msgspec.structs.replace(GRAPHS, mixed_s=0.0, eager_s=0.0)  # nothing to lose, and nothing to gain
SPEEDS = {"as fitted": GRAPHS, "a third of it": CHEAPER, "none": ONE_MODE}


class Refilled(msgspec.Struct, frozen=True, kw_only=True):
    """One batch, both ways."""

    ranks: int
    lengths: str
    prompt_tokens: int
    items: int
    modes: str  # what steps beyond a whole graph take more
    tokens_per_s: float  # of answers, one by one
    together_tokens_per_s: float
    tail_s: float
    together_tail_s: float
    drain_s: float
    together_drain_s: float

    @property
    def gain(self) -> float:
        """Of refilling together."""
        return self.together_tokens_per_s / self.tokens_per_s


def measure_all(items_per_rank: int) -> list[Refilled]:
    """Groups of 2 and 8, equal and long-tailed answers, prompts of 100 and of 1,000 tokens."""
    return [
        measure(ranks, msgspec.structs.replace(lengths, prompt_tokens=prompt_tokens), items_per_rank * ranks, modes)
        for modes in SPEEDS
        for ranks in (2, 8)
        for lengths in (EQUAL, TAILED, KNOWN)
        for prompt_tokens in (100, 1000)
    ]


def measure(ranks: int, lengths: Lengths, items: int, modes: str) -> Refilled:
    """Runs the batch to its end, twice. It comes whole where it may."""
    one_by_one, together = (_run(ranks, lengths, items, SPEEDS[modes], waves=waves) for waves in (False, True))
    return Refilled(
        ranks=ranks,
        lengths=lengths.name,
        prompt_tokens=lengths.prompt_tokens,
        items=items,
        modes=modes,
        tokens_per_s=round(one_by_one[0]),
        together_tokens_per_s=round(together[0]),
        tail_s=round(one_by_one[1], 2),
        together_tail_s=round(together[1], 2),
        drain_s=round(one_by_one[2], 2),
        together_drain_s=round(together[2], 2),
    )


def _run(ranks: int, lengths: Lengths, items: int, speed: Speed, *, waves: bool) -> tuple[float, float, float]:
    settings = Settings(waves=waves)
    gateway = SimulatedGateway(Timeline(), ranks, group_size=ranks, speed=speed, settings=settings)
    batch = (gateway.submit if items <= settings.max_batch_items else gateway.feed)(items, lengths, seed=1)
    gateway.run()
    seconds = gateway.timeline.now_s
    answers = batch.tokens - items * lengths.prompt_tokens
    return answers / seconds, gateway.stats.summary().tail_s, seconds - batch.last_start_s


def table(found: list[Refilled]) -> str:
    """For people."""
    lines = [
        "| modes cost | ranks | lengths | prompt | items | tokens/s one by one | together | gain | tail s | drain s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        lines.append(
            f"| {one.modes} | {one.ranks} | {one.lengths} | {one.prompt_tokens:,} | {one.items:,} "
            f"| {one.tokens_per_s:,.0f} | {one.together_tokens_per_s:,.0f} | {one.gain:.3f} "
            f"| {one.tail_s:.2f}, {one.together_tail_s:.2f} | {one.drain_s:.1f}, {one.together_drain_s:.1f} |"
        )
    return "\n".join(lines)
