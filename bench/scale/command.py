"""`python -m bench scale`: the scenarios, what they print, and the files they write."""

import argparse
import gc
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from app.dispatch.placement import Dispatch
from app.ranks.events import LossKind
from bench.scale import curve, ends, gateways, losses, sharing, waves
from bench.scale.curve import Point
from bench.scale.ends import End
from bench.scale.gateways import Choose, Comparison
from bench.scale.losses import Recovery
from bench.scale.sharing import Shares, Waits
from bench.scale.waves import Refilled
from bench.scale.work import EQUAL, KNOWN, TAILED, Lengths

LONGER = Lengths(name="long-tailed, mean 256", mean=256.0, sigma=1.0, max_tokens=1024)
LONGEST = Lengths(name="long-tailed, mean 512", mean=512.0, sigma=0.8, max_tokens=2048)
LOST = range(8)  # ranks


class Report(msgspec.Struct, kw_only=True):
    """What was measured. All but `cpu_us` is the same in every run."""

    loads: dict[str, list[float]] = {}  # of the machine, at the beginning and at the end of each scenario
    curve: list[Point] = []
    losses: list[Recovery] = []
    waits: list[Waits] = []
    shares: list[Shares] = []
    ends: list[End] = []
    gateways: list[Comparison] = []
    waves: list[Refilled] = []


def _curve(report: Report, given: argparse.Namespace) -> str:
    report.curve = []
    few = [ranks for ranks in given.ranks if ranks in (8, 64)]
    for lengths in (EQUAL, TAILED):
        plain = [(ranks, Dispatch.ROUND_ROBIN, 1) for ranks in given.ranks]
        loads = [(ranks, Dispatch.LEAST_LOADED, 1) for ranks in few]
        lockstep = [(ranks, Dispatch.ROUND_ROBIN, 8) for ranks in few]
        for ranks, dispatch, group_size in (*plain, *loads, *lockstep):
            report.curve.append(
                curve.measure_point(ranks, lengths, dispatch, given.items_per_rank, group_size=group_size)
            )
    report.curve += [
        curve.measure_point(ranks, LONGEST, Dispatch.ROUND_ROBIN, given.items_per_rank // 2) for ranks in few
    ]
    for lengths in (TAILED, KNOWN) if 8 in given.ranks else ():
        report.curve.append(
            curve.measure_point(8, lengths, Dispatch.ROUND_ROBIN, given.items_per_rank, comes_whole=True)
        )
    return curve.table(report.curve)


def _losses(report: Report, given: argparse.Namespace) -> str:
    ways = [
        ("a node of 8 replicas", LossKind.NODE_LOST, 1),
        ("a lock-step group of 8, with its node", LossKind.NODE_LOST, 8),
        ("a lock-step group of 8, by a crash", LossKind.DIED, 8),
    ]
    report.losses = [
        losses.measure_loss(name, 64, LOST, LONGER, kind=kind, group_size=size, items=given.loss_items)
        for name, kind, size in ways
    ]
    return losses.table(report.losses)


def _sharing(report: Report, given: argparse.Namespace) -> str:
    report.waits = [
        sharing.measure_waits(ranks, lengths, is_beside_large=is_beside_large)
        for ranks in (8, 64)
        for lengths in (EQUAL, TAILED)
        for is_beside_large in (True, False)
    ]
    report.shares = [sharing.measure_shares(8, lengths, (1, 3)) for lengths in (EQUAL, TAILED)]
    return sharing.table(report.waits, report.shares)


def _ends(report: Report, given: argparse.Namespace) -> str:
    report.ends = [ends.measure_end(ranks, TAILED, us) for us in given.gateway_us for ranks in given.ranks]
    return ends.table(report.ends)


def _gateways(report: Report, given: argparse.Namespace) -> str:
    ways: list[tuple[str, int, Choose]] = [
        ("one gateway of 64 ranks", 1, gateways.by_hash),
        ("eight of 8, by hash", 8, gateways.by_hash),
        ("eight of 8, by load", 8, gateways.by_load),
    ]
    report.gateways = [gateways.measure_gateways(name, count, 64, choose, TAILED) for name, count, choose in ways]
    return gateways.table(report.gateways)


def _waves(report: Report, given: argparse.Namespace) -> str:
    report.waves = waves.measure_all(given.wave_items)
    return waves.table(report.waves)


SCENARIOS: dict[str, Callable[[Report, argparse.Namespace], str]] = {
    "curve": _curve,
    "losses": _losses,
    "sharing": _sharing,
    "ends": _ends,
    "gateways": _gateways,
    "waves": _waves,
}


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    add = parser.add_argument
    add("--only", nargs="*", choices=list(SCENARIOS), default=list(SCENARIOS), help="none: draw what FILE has")
    add("--ranks", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64, 128])
    add("--items-per-rank", type=int, default=4096)
    add("--loss-items", type=int, default=1_400_000)
    add("--wave-items", type=int, default=10_000, help="a rank")
    add("--gateway-us", nargs="+", type=float, default=[30.0, 90.0], help="CPU of a whole gateway for an item")
    add("--json", type=Path, metavar="FILE", help="what it has of other scenarios stays")
    add("--plots", type=Path, metavar="DIR", help="SVG files; needs the extra `plots`")
    return parser


def main(arguments: list[str], prog: str) -> int:
    """0; a broken promise is an AssertionError."""
    given = _parser(prog).parse_args(arguments)
    report = Report()
    if given.json and given.json.exists():
        report = msgspec.json.decode(given.json.read_bytes(), type=Report)
    gc.disable()  # the simulation has millions of objects that no gateway has
    for name in given.only:
        began, load = time.monotonic(), os.getloadavg()[0]
        print(f"\n## {name}\n\n{SCENARIOS[name](report, given)}", flush=True)
        report.loads[name] = [round(load, 1), round(os.getloadavg()[0], 1)]
        print(f"\n({time.monotonic() - began:.0f} s; the machine's load was {report.loads[name]})", flush=True)
        gc.collect()
    if given.json and given.only:
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    if given.plots:
        from bench.scale.plots import draw

        draw(report, given.plots)
    return 0
