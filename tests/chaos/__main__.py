"""`python -m tests.chaos [--rounds N] [--seed S] [--only ROUND]`: every round in turn on replicas and in lock-step.

A round that breaks a promise ends the run with exit code 1; its seed and number repeat it.
"""

import argparse
import sys
import time
import traceback
from pathlib import Path

from tests.chaos.plan import draw
from tests.chaos.play import Arena

REPORT_EVERY = 25
SLOW_S = 20.0
RANKS = 2


def main() -> int:
    """0 when every promise was kept in every round."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, metavar="ROUND", help="begin with this one (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="ROUND", help="this round alone")
    parser.add_argument("--keep-log", type=Path, default=Path("chaos.log"), help="the service's log, if a round fails")
    given = parser.parse_args()
    numbers = [given.only] if given.only is not None else range(given.first, given.first + given.rounds)
    arenas = [Arena(is_moe=False), Arena(is_moe=True)]
    began = time.monotonic()
    number = -1
    try:
        for number in numbers:
            round_began = time.monotonic()
            arenas[number % 2].play(draw(given.seed, number, RANKS))
            if time.monotonic() - round_began > SLOW_S:
                print(f"round {number} took {time.monotonic() - round_began:.0f} s", flush=True)
            if number % REPORT_EVERY == REPORT_EVERY - 1:
                memory = ", ".join(f"{arena.memory_mib:.0f} MiB" for arena in arenas)
                print(f"{number + 1} rounds, {time.monotonic() - began:.0f} s; gateways {memory}", flush=True)
        for arena in arenas:
            arena.close()
    except BaseException:  # noqa: BLE001  the edge: whatever it was, it is said with how to repeat it
        traceback.print_exc()
        arena = arenas[number % 2]
        given.keep_log.write_text(arena.log())
        print(f"round {number} failed: repeat it with --seed {given.seed} --only {number}; log: {given.keep_log}")
        return 1
    finally:
        for arena in arenas:
            arena.abandon()
    total = arenas[0].counts + arenas[1].counts
    print(f"{total['rounds']} rounds in {time.monotonic() - began:.0f} s, no promise broken")
    for what, count in sorted(total.items()):
        print(f"  {what:26} {count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
