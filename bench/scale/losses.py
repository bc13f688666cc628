"""Losing a part of the ranks in the midst of a batch, and having it back: what runs again, and the time it costs."""

from collections.abc import Sequence

import msgspec

from app.ranks.events import LossKind
from bench.scale.engine import Speed
from bench.scale.gateway import SimulatedGateway
from bench.scale.timeline import Timeline
from bench.scale.work import Lengths

LEVEL = 0.95  # of what is expected: throughput is back
WINDOW_S = 3  # that throughput is looked at over


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """One loss."""

    name: str
    ranks: int
    group_size: int
    lost_ranks: int
    items: int
    lost_at_s: float
    restart_s: float
    run_again: int  # attempts that were lost with their ranks
    lost_tokens_share: float  # of all attempts
    before_tokens_per_s: float
    without_tokens_per_s: float  # while the ranks were away
    expected_without: float  # what the ranks that are left should do, of what all do
    level_again_s: float | None  # after the loss, until those that are left do that
    back_after_s: float | None  # after their return, until all is as before
    seconds: float
    tokens_by_second: list[int]


def measure_loss(
    name: str,
    ranks: int,
    lost: Sequence[int],
    lengths: Lengths,
    *,
    kind: LossKind,
    group_size: int = 1,
    speed: Speed | None = None,
    lost_at_s: float = 45.0,
    restart_s: float = 45.0,
    items: int,
) -> Recovery:
    """The groups with these ranks are lost at once. Fails if an item has no result, or two."""
    gateway = SimulatedGateway(Timeline(), ranks, group_size=group_size, speed=speed)
    batch = gateway.feed(items, lengths, seed=2)
    groups = [group for group in gateway.groups if any(rank in group.ranks for rank in lost)]
    for group in groups:
        gateway.timeline.after(lost_at_s, lambda group=group: gateway.lose(group, kind, restart_s))
    gateway.run()
    done = [gateway.tokens_by_second[second] for second in range(int(gateway.timeline.now_s) + 1)]
    before = _rate(done, lost_at_s - 10, 10)
    expected = 1 - len(groups) * group_size / ranks
    return Recovery(
        name=name,
        ranks=ranks,
        group_size=group_size,
        lost_ranks=len(groups) * group_size,
        items=items,
        lost_at_s=lost_at_s,
        restart_s=restart_s,
        run_again=batch.lost,
        lost_tokens_share=round(batch.lost / (items + batch.lost), 5),
        before_tokens_per_s=round(before),
        without_tokens_per_s=round(_rate(done, lost_at_s + 10, restart_s - 10)),
        expected_without=expected,
        level_again_s=_reached(done, lost_at_s, LEVEL * expected * before),
        back_after_s=_reached(done, lost_at_s + restart_s, LEVEL * before),
        seconds=round(gateway.timeline.now_s, 2),
        tokens_by_second=done,
    )


def _rate(done: list[int], first_s: float, seconds: float) -> float:
    part = done[max(0, int(first_s)) : int(first_s + seconds)]
    return sum(part) / max(1, len(part))


def _reached(done: list[int], since_s: float, level: float) -> float | None:
    """Seconds until a whole window is at the level; None if it never was."""
    for second in range(int(since_s), len(done) - WINDOW_S):
        if sum(done[second : second + WINDOW_S]) >= level * WINDOW_S:
            return second - since_s
    return None


def table(found: list[Recovery]) -> str:
    """For people."""
    lines = [
        "| lost | of ranks | items | run again | tokens/s before | while away | expected | level after s "
        "| as before, after their return |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        share = one.without_tokens_per_s / one.before_tokens_per_s
        lines.append(
            f"| {one.name} | {one.ranks} | {one.items:,} | {one.run_again:,} | {one.before_tokens_per_s:,.0f} "
            f"| {share:.3f} of it | {one.expected_without:.3f} | {_seconds(one.level_again_s)} "
            f"| {_seconds(one.back_after_s)} |"
        )
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.0f} s"
