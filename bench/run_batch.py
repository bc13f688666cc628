"""A file of OpenAI's batch lines, from the file to its complete output: `vllm run-batch`, with its own defaults and
with Phalanx's settings, beside `phalanx serve` and its /v1/batches.

run-batch starts an engine for each file. So a run of any side begins with its start, and there are two figures: the
whole, and the time from when the engine was there, which is what a service that runs already takes. run-batch's log
says when it begins to read the file; Phalanx is up when all its ranks are. Rounds take turns; a round before the first,
with few lines, fills the caches of compilers and of files. A side that fails a kind of line is not asked for it again.
"""

import argparse
import contextlib
import tempfile
from pathlib import Path

import httpx
import msgspec

from bench.batch_files import URLS, FileRun, PhalanxFile, RunBatch, Side, write_file
from bench.engine_settings import EngineSettings, add_settings_flags, settings_of
from bench.processes import MeasurementFailed
from bench.side_table import Cell, Column, table
from bench.workload import WorkloadShape

WARM_UP_LINES = 32
COLUMNS = [
    Column[FileRun]("seconds, all", "{:.2f}", lambda run: run.whole_s),
    Column[FileRun]("of them the start", "{:.2f}", lambda run: run.start_s),
    Column[FileRun]("seconds without the start", "{:.2f}", lambda run: run.work_s),
    Column[FileRun]("lines/s without the start", "{:.1f}", lambda run: run.items / run.work_s),
]


def measure(
    sides: list[Side], endpoints: list[str], model: str, shape: WorkloadShape, runs: int, folder: Path
) -> list[Cell[FileRun]]:
    """All rounds; round 0 warms up."""
    cells = {
        (endpoint, side.name): Cell[FileRun](load=URLS[endpoint], side=side.name)
        for endpoint in endpoints
        for side in sides
    }
    for number in range(runs + 1):
        first = number % len(sides)
        size = shape if number else WorkloadShape(min(shape.prompts, WARM_UP_LINES), shape.tokens, None, shape.lengths)
        for endpoint in endpoints:
            file = write_file(folder / f"{endpoint}.{number}.jsonl", endpoint, model, size, number)
            for side in sides[first:] + sides[:first]:
                cell = cells[endpoint, side.name]
                if cell.failures:
                    continue
                output = folder / "output.jsonl"
                output.unlink(missing_ok=True)
                try:
                    run = side.run(file, output)
                except (MeasurementFailed, httpx.HTTPError) as error:
                    cell.failures.append(f"{type(error).__name__}: {error}")
                    print(f"round {number} {file.url} {side.name}: {cell.failures[-1]}", flush=True)
                    continue
                if number:
                    cell.shots.append(run)
                print(
                    f"round {number} {file.url} {side.name}: {file.items} lines, {run.whole_s:.2f} s, "
                    f"{run.start_s:.2f} s of them the start",
                    flush=True,
                )
            file.path.unlink()
    return list(cells.values())


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="phalanx-tiny-random", help="folder, hub name or built-in model (%(default)s)")
    add("--items", type=int, default=2000, help="lines of a file (%(default)s)")
    add("--tokens", type=int, default=8, help="of each answer; the mean where lengths are lognormal (%(default)s)")
    add("--lengths", choices=["fixed", "lognormal"], default="fixed", help="of the answers")
    add("--runs", type=int, default=3, help="(%(default)s)")
    add("--endpoints", default="chat,completions", help="kinds of lines, each in files of its own (%(default)s)")
    add("--only", default="defaults,equal,phalanx", help="sides (%(default)s)")
    add_settings_flags(parser, dp_size=1, for_whom="for equal sides")
    add("--flags", default="", help="more flags of `phalanx serve`")
    add("--json", type=Path, metavar="FILE", help="where to write all runs")
    add("--keep-logs", type=Path, metavar="DIR", help="where logs go; default: a folder that is removed")
    return parser


def _sides(named: list[str], settings: EngineSettings, flags: list[str], folder: Path) -> list[Side]:
    known: dict[str, Side] = {
        "defaults": RunBatch(settings, folder, has_defaults=True),
        "equal": RunBatch(settings, folder, has_defaults=False),
        "phalanx": PhalanxFile(settings, folder, flags),
    }
    return [side for name, side in known.items() if name in named]


def main(arguments: list[str], prog: str) -> int:
    """1 when Phalanx failed a kind of line, or another side all of them: run-batch refuses /v1/completions."""
    given = _parser(prog).parse_args(arguments)
    with contextlib.ExitStack() as stack:
        folder = given.keep_logs or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        folder.mkdir(parents=True, exist_ok=True)
        try:
            settings = settings_of(given)
        except MeasurementFailed as error:
            print(error)
            return 1
        shape = WorkloadShape(given.items, given.tokens, None, given.lengths)
        sides = _sides(given.only.split(","), settings, given.flags.split(), folder)
        cells = measure(sides, given.endpoints.split(","), settings.model, shape, given.runs, folder)
    print(f"\n{table(cells, PhalanxFile.name, COLUMNS)}")
    if given.json:
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode(cells), indent=1))
    shots = {cell.side: 0 for cell in cells}
    for cell in cells:
        shots[cell.side] += len(cell.shots)
    return int(any(cell.failures and (cell.side == PhalanxFile.name or not shots[cell.side]) for cell in cells))
