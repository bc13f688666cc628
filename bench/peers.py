"""The gateway beside what others would put in its place, doing the same simulated work, all in one run: LitServe, and
a bare FastAPI application with a multiprocessing.Queue to each worker. Every side has two workers behind one HTTP
process.

Two kinds of work. `cost`: items are answered at once, so that what is left is what the service itself costs. `slots`:
a worker runs so many items at once, each for as many steps as its answer has tokens, and lengths are lognormal: what is
left is how well slots are filled. A round has every side once, in turns, and a side is alone on the machine: it is
started, warmed up, put under the three loads and stopped. The client checks every answer after the clock has stopped.
"""

import argparse
import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import uvloop

from bench.lean_client import Exchange, ask_all
from bench.load_clients import Load, add_size_flags, loads_of
from bench.peer_figures import Shot, cost_table, ideal, time_table
from bench.peer_services.simulation import PATH
from bench.peer_sides import WORKERS, Pace, PhalanxSide, Side, bare, litserve
from bench.processes import ROOT, MeasurementFailed, cost_of, tree_cpu_s
from bench.side_table import Cell
from bench.workload import WorkloadShape
from engines.simulated.prompts import PIECE_LENGTH

ENVIRONMENTS = ROOT / ".venv-peers"
FORMS = "async,batched"
WARM_UP = Load(20, 50, 10)
DEFAULT_SLOTS = 256  # of the simulated engine
SEED = 1


@dataclass(frozen=True)
class Work:
    """What items are, and how fast they run."""

    name: str
    pace: Pace
    tokens: int
    lengths: list[int] | None = None  # of the answers, by item; None: all have `tokens`

    def bodies(self, load: Load) -> list[bytes]:
        """The requests of a load."""
        bodies = [load.body(request) for request in range(load.requests)]
        for item, prompt in enumerate(prompt for body in bodies for prompt in body["prompts"]):
            if self.lengths is not None:
                prompt["sampling_params"] = {"max_tokens": self.length(item)}
        return [msgspec.json.encode(body) for body in bodies]

    def length(self, item: int) -> int:
        """Tokens of an item's answer."""
        return self.tokens if self.lengths is None else self.lengths[item % len(self.lengths)]


class _Output(msgspec.Struct):
    text: str


class _Result(msgspec.Struct):
    custom_id: str
    outputs: list[_Output] = []


class _Answer(msgspec.Struct):
    results: list[_Result]


def check(work: Work, load: Load, exchanges: list[Exchange]) -> None:
    """Raises MeasurementFailed unless every item is there once, in order, with as many tokens as it asked for."""
    seen: list[int] = []
    for exchange in exchanges:
        try:
            answer = msgspec.json.decode(exchange.body, type=_Answer)
        except msgspec.DecodeError as error:
            raise MeasurementFailed(f"{error}: {exchange.body[:300]!r}") from None
        items = [int(result.custom_id.removeprefix("item-")) for result in answer.results]
        size = load.items_per_request
        if not items or items != list(range(items[0], items[0] + size)) or items[0] % size:
            raise MeasurementFailed(f"an answer is not in the order of its {size} prompts: {items[:5]} ...")
        seen += items
        for item, result in zip(items, answer.results, strict=True):
            length = sum(len(output.text) for output in result.outputs)
            if length != work.length(item) * PIECE_LENGTH:
                raise MeasurementFailed(f"item {item} has {length} characters for {work.length(item)} tokens")
    if sorted(seen) != list(range(load.items)):
        raise MeasurementFailed(f"{len(seen)} results for {load.items} items")


def fire(side: Side, work: Work, load: Load, timeout_s: float) -> Shot:
    """One load, and what it cost. Raises MeasurementFailed."""
    bodies = work.bodies(load)
    http_before, all_before = cost_of(side.http_pid).cpu_s, tree_cpu_s(side.root_pid)
    began = time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        exchanges = runner.run(_ask(side.url, bodies, load.clients, timeout_s))
        seconds = time.monotonic() - began
    http_s, all_s = cost_of(side.http_pid).cpu_s - http_before, tree_cpu_s(side.root_pid) - all_before
    check(work, load, exchanges)
    return Shot(
        seconds=seconds,
        items=load.items,
        http_us=http_s / load.items * 1e6,
        all_us=all_s / load.items * 1e6,
    )


async def _ask(url: str, bodies: list[bytes], clients: int, timeout_s: float) -> list[Exchange]:
    try:
        async with asyncio.timeout(timeout_s):
            return await ask_all(url, PATH, bodies, clients)
    except TimeoutError:
        raise MeasurementFailed(f"not answered after {timeout_s:g} s") from None
    except (OSError, EOFError) as error:
        raise MeasurementFailed(f"{type(error).__name__}: {error}") from error


def measure(sides: list[Side], work: Work, loads: list[Load], rounds: int, timeout_s: float) -> list[Cell[Shot]]:
    """All rounds of one kind of work. A load that a side failed is not put on it again."""
    cells = {(load, side.name): Cell[Shot](load=load.name, side=side.name) for load in loads for side in sides}
    for number in range(1, rounds + 1):
        first = number % len(sides)
        for side in sides[first:] + sides[:first]:
            left = [load for load in loads if not cells[load, side.name].failures]
            _round(side, work, [(load, cells[load, side.name]) for load in left], number, timeout_s)
    return list(cells.values())


def _round(side: Side, work: Work, loads: list[tuple[Load, Cell[Shot]]], number: int, timeout_s: float) -> None:
    is_up = False
    try:
        for load, cell in loads:
            try:
                if not is_up:  # nor after a failure: who knows what it still does
                    side.stop()
                    side.start(work.pace)
                    fire(side, work, WARM_UP, timeout_s)
                    is_up = True
                shot = fire(side, work, load, timeout_s)
            except MeasurementFailed as error:
                is_up = False
                cell.failures.append(str(error))
                print(f"{work.name} round {number} {load.name:>10} {side.name}: FAILED {error}", flush=True)
            else:
                cell.shots.append(shot)
                print(
                    f"{work.name} round {number} {load.name:>10} {side.name}: {shot.seconds:.3f} s, "
                    f"{shot.items_per_s:.0f} items/s, HTTP process {shot.http_us:.1f} us, all {shot.all_us:.1f} us",
                    flush=True,
                )
    finally:
        side.stop()


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_size_flags(parser)
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="(%(default)s)")
    add("--work", choices=["both", "cost", "slots"], default="both")
    add("--slots", type=int, default=64, help="items that a worker runs at once, in `slots` (%(default)s)")
    add("--step-ms", type=float, default=5.0, help="of `slots` (%(default)s)")
    add("--slots-tokens", type=int, default=16, help="the mean of the lognormal lengths in `slots` (%(default)s)")
    add("--forms", default=FORMS, help="of LitServe: async, batched, plain; with +zmq for its fast queue (%(default)s)")
    add("--only", default="phalanx,litserve,bare", help="sides (%(default)s)")
    add("--environments", type=Path, default=ENVIRONMENTS, metavar="DIR", help="where LitServe is installed")
    add("--timeout-s", type=float, default=300.0, help="of a load (%(default)s)")
    add("--json", type=Path, metavar="FILE", help="where to write all shots")
    return parser


def _sides(given: argparse.Namespace, folder: Path) -> list[Side]:
    named = given.only.split(",")
    sides: list[Side] = [PhalanxSide(folder)] if "phalanx" in named else []
    if "litserve" in named:
        sides += [litserve(form, given.environments.resolve(), folder) for form in given.forms.split(",")]
    return sides + ([bare(folder)] if "bare" in named else [])


def _works(given: argparse.Namespace) -> list[Work]:
    lengths = WorkloadShape(given.items, given.slots_tokens, lengths="lognormal").make(SEED).max_tokens
    works = [
        Work("cost", Pace(DEFAULT_SLOTS, 0.0), given.tokens),
        Work("slots", Pace(given.slots, given.step_ms), given.slots_tokens, lengths),
    ]
    return [work for work in works if given.work in ("both", work.name)]


def main(arguments: list[str], prog: str) -> int:
    """1 when a side failed a load."""
    given = _parser(prog).parse_args(arguments)
    found: dict[str, list[Cell[Shot]]] = {}
    tables: list[str] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        sides, loads = _sides(given, Path(folder)), loads_of(given)
        for side in sides:
            print(f"{side.name}: {side.versions}", flush=True)
        for work in _works(given):
            cells = found[work.name] = measure(sides, work, loads, given.rounds, given.timeout_s)
            if work.lengths is None:
                tables.append(f"Items that are answered at once\n\n{cost_table(cells, PhalanxSide.name)}")
                continue
            best = ideal(work.lengths, WORKERS, work.pace.slots, work.pace.step_ms / 1e3)
            head = f"{WORKERS} x {work.pace.slots} slots, {work.pace.step_ms:g} ms a step, lognormal lengths"
            tables.append(f"{head}\n\n{time_table(cells, PhalanxSide.name, best)}")
    for table in tables:
        print(f"\n{table}")
    if given.json:
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))
    return int(any(cell.failures for cells in found.values() for cell in cells))
