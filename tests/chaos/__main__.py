"""`python -m tests.chaos [--nodes] [--rounds N] [--seed S] [--only ROUND]`: every round in turn on replicas and in
lock-step, on one host or on two and three nodes.

A round that breaks a promise ends the run with exit code 1; its seed and number repeat it.
"""

import argparse
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.chaos.nodes import Nodes
from tests.chaos.play import Arena, OneHost
from tests.netns.network import missing

REPORT_EVERY = 25
ROUNDS, ROUNDS_ON_NODES = 500, 200
SLOW_S, SLOW_ON_NODES_S = 20.0, 45.0


def main() -> int:
    """0 when every promise was kept in every round."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--nodes", action="store_true", help="on two and three nodes, whose links are cut, too")
    parser.add_argument("--rounds", type=int, help=f"{ROUNDS}; on nodes {ROUNDS_ON_NODES}")
    parser.add_argument("--first", type=int, default=0, metavar="ROUND", help="begin with this one (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="ROUND", help="this round alone")
    parser.add_argument("--keep-log", type=Path, default=Path("chaos.log"), help="the service's log, if a round fails")
    given = parser.parse_args()
    if given.nodes and (lacking := missing()):
        print(f"chaos on nodes needs {lacking}: run it as root, with iproute2 and iptables installed", file=sys.stderr)
        return 1
    rounds = given.rounds or (ROUNDS_ON_NODES if given.nodes else ROUNDS)
    slow_s = SLOW_ON_NODES_S if given.nodes else SLOW_S
    numbers = [given.only] if given.only is not None else range(given.first, given.first + rounds)
    arenas: list[Arena] = []
    began = time.monotonic()
    number = -1
    try:
        open_arenas(arenas, on_nodes=given.nodes)
        for number in numbers:
            round_began = time.monotonic()
            arena = arenas[number % len(arenas)]
            arena.play(arena.draw(given.seed, number))
            if time.monotonic() - round_began > slow_s:
                print(f"round {number} took {time.monotonic() - round_began:.0f} s", flush=True)
            if number % REPORT_EVERY == REPORT_EVERY - 1:
                memory = ", ".join(f"{arena.memory_mib:.0f} MiB" for arena in arenas)
                print(f"{number + 1} rounds, {time.monotonic() - began:.0f} s; gateways {memory}", flush=True)
        for arena in arenas:
            arena.close()
    except BaseException:  # noqa: BLE001  the edge: whatever it was, it is said with how to repeat it
        traceback.print_exc()
        given.keep_log.write_text("".join(arena.log() for arena in arenas[number % len(arenas) :][:1]))
        print(f"round {number} failed: repeat it with --seed {given.seed} --only {number}; log: {given.keep_log}")
        return 1
    finally:
        for arena in arenas:
            arena.abandon()
    total = sum((arena.counts for arena in arenas), Counter())
    print(f"{total['rounds']} rounds in {time.monotonic() - began:.0f} s, no promise broken")
    for what, count in sorted(total.items()):
        print(f"  {what:32} {count}")
    return 0


def open_arenas(arenas: list[Arena], *, on_nodes: bool) -> None:
    """Adds them one by one: whoever ends them knows those that are there when another one fails."""
    if not on_nodes:
        arenas += [OneHost(is_moe=False), OneHost(is_moe=True)]
        return
    for number, (nodes, is_moe) in enumerate(((2, False), (3, True), (2, True), (3, False))):
        arenas.append(Nodes(number, nodes, ranks_per_node=2 if nodes == 2 else 1, is_moe=is_moe))


if __name__ == "__main__":
    sys.exit(main())
