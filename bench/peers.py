"""The gateway beside what others would put in its place, doing the same simulated work, all in one run: LitServe, and
a bare FastAPI application with a multiprocessing.Queue to each worker. Every side has two workers behind one HTTP
process.

Three kinds of work. `cost`: items are answered at once, so that what is left is what the service itself costs. `slots`:
a worker runs so many items at once, each for as many steps as its answer has tokens, and each has a max_tokens of its
own, lognormal: what is left is how well slots are filled. `hidden`: the same, but all have one max_tokens, and answers
end by themselves, so that nobody knows beforehand which are long.

A round has every side once, in turns, and a side is alone on the machine: it is started, warmed up, put under the three
loads and stopped. Texts are the simulated engine's on all sides; the client checks each of them after the clock has
stopped.
"""

import argparse
import asyncio
import tempfile
import time
from itertools import zip_longest
from pathlib import Path

import msgspec
import uvloop

from bench.lean_client import Exchange, ask_all
from bench.load_clients import Load, add_size_flags, loads_of
from bench.peer_figures import Shot, cost_table, ideal, time_table
from bench.peer_services.simulation import PATH, Json, Writer
from bench.peer_sides import WORKERS, Pace, PhalanxSide, Side, bare, litserve
from bench.processes import ROOT, MeasurementFailed, cost_of, tree_cpu_s
from bench.side_table import Cell
from bench.workload import LONGEST, WorkloadShape
from engines.simulated.answers import PIECES

ENVIRONMENTS = ROOT / ".venv-peers"
FORMS = "async,batched"
WARM_UP = Load(20, 50, 10)
DEFAULT_SLOTS = 256  # of the simulated engine
SEED = 1


class Work:
    """What items are, and how fast they run. `lengths` are of the answers, by item, where each asks for its own."""

    def __init__(self, name: str, pace: Pace, shared: Json, lengths: list[int] | None = None) -> None:
        self.name = name
        self.pace = pace
        self._shared = shared
        self._lengths = lengths
        self._writer = Writer()

    def requests(self, load: Load) -> list[Json]:
        """The requests of a load."""
        bodies = [load.body(request) | {"sampling_params": self._shared} for request in range(load.requests)]
        if self._lengths is not None:
            for item, prompt in enumerate(prompt for body in bodies for prompt in body["prompts"]):
                prompt["sampling_params"] = {"max_tokens": self._lengths[item % len(self._lengths)]}
        return bodies

    def answer(self, request: Json) -> list[tuple[str, str]]:
        """The custom_ids and texts that a request is to be answered with."""
        return [(found["custom_id"], found["outputs"][0]["text"]) for found, _ in self._written(request)]

    def steps(self, load: Load) -> list[int]:
        """How many each item takes."""
        return [steps for request in self.requests(load) for _, steps in self._written(request)]

    def _written(self, request: Json) -> list[tuple[Json, int]]:
        return [self._writer.write(index, item, self._shared) for index, item in enumerate(request["prompts"])]


class _Output(msgspec.Struct):
    text: str


class _Result(msgspec.Struct):
    custom_id: str
    outputs: list[_Output] = []


class _Answer(msgspec.Struct):
    results: list[_Result]


def check(work: Work, requests: list[Json], exchanges: list[Exchange]) -> None:
    """Raises MeasurementFailed unless every request was answered, with the right texts in the right order."""
    wanted = {request["prompts"][0]["custom_id"]: request for request in requests}
    for exchange in exchanges:
        try:
            results = msgspec.json.decode(exchange.body, type=_Answer).results
        except msgspec.DecodeError as error:
            raise MeasurementFailed(f"{error}: {exchange.body[:300]!r}") from None
        request = wanted.pop(results[0].custom_id, None) if results else None
        if request is None:
            raise MeasurementFailed(f"no request has this answer, or not this one again: {exchange.body[:300]!r}")
        found = [(result.custom_id, "".join(output.text for output in result.outputs)) for result in results]
        if found != (right := work.answer(request)):
            pairs = zip_longest(found, right)
            raise MeasurementFailed(
                "{} came where {} belongs".format(*next(pair for pair in pairs if pair[0] != pair[1]))
            )
    if wanted:
        raise MeasurementFailed(f"{len(wanted)} of {len(requests)} requests have no answer, such as {min(wanted)}")


def fire(side: Side, work: Work, load: Load, timeout_s: float) -> Shot:
    """One load, and what it cost. Raises MeasurementFailed."""
    requests = work.requests(load)
    bodies = [msgspec.json.encode(request) for request in requests]
    http_before, all_before = cost_of(side.http_pid).cpu_s, tree_cpu_s(side.root_pid)
    began = time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        exchanges = runner.run(_ask(side.url, bodies, load.clients, timeout_s))
        seconds = time.monotonic() - began
    http_s, all_s = cost_of(side.http_pid).cpu_s - http_before, tree_cpu_s(side.root_pid) - all_before
    check(work, requests, exchanges)
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
    add("--work", default="cost,slots,hidden", help="kinds of work (%(default)s)")
    add("--slots", type=int, default=64, help="items that a worker runs at once, in `slots` and `hidden` (%(default)s)")
    add("--step-ms", type=float, default=5.0, help="of these (%(default)s)")
    add("--slots-tokens", type=int, default=16, help="the mean of their lengths (%(default)s)")
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
    mean, pace = given.slots_tokens, Pace(given.slots, given.step_ms)
    lengths = WorkloadShape(given.items, mean, lengths="lognormal").make(SEED).max_tokens
    stops = {"max_tokens": mean * LONGEST, "stop_token_ids": list(range(max(1, len(PIECES) // mean)))}
    works = [
        Work("cost", Pace(DEFAULT_SLOTS, 0.0), {"max_tokens": given.tokens}),
        Work("slots", pace, {"max_tokens": mean}, lengths),
        Work("hidden", pace, stops),
    ]
    return [work for work in works if work.name in given.work.split(",")]


def _table(work: Work, cells: list[Cell[Shot]], load: Load) -> str:
    pace = work.pace
    if not pace.step_ms:
        return f"{work.name}: items are answered at once\n\n{cost_table(cells, PhalanxSide.name)}"
    best = ideal(work.steps(load), WORKERS, pace.slots, pace.step_ms / 1e3)
    head = f"{work.name}: {WORKERS} x {pace.slots} slots, {pace.step_ms:g} ms a step"
    return f"{head}\n\n{time_table(cells, PhalanxSide.name, best)}"


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
            tables.append(_table(work, cells, loads[0]))
    for table in tables:
        print(f"\n{table}")
    if given.json:
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))
    return int(any(cell.failures for cells in found.values() for cell in cells))
