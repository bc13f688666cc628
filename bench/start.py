"""How soon `phalanx serve` and `vllm serve` are ready, with the same settings, one at a time and in turns.

Ready is when all ranks are, and for `vllm serve` when its /health says so. A round before the first fills the caches of
compilers and of files, and shows a first start; --evict takes the model's weights out of the page cache before every
start, as after the machine's own.
"""

import argparse
import os
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import msgspec

from bench.engine_settings import add_settings_flags, settings_of
from bench.gpu_moe import GPU_MEMORY, SHAPE, build_model
from bench.measured import Side
from bench.phalanx_server import PhalanxServer
from bench.processes import MeasurementFailed
from bench.side_table import Cell, Column, table
from bench.vllm_server import VllmServer

REFERENCE = "Phalanx"
COLUMNS = [Column[float]("seconds until ready", "{:.1f}", float)]


def evict(folder: Path) -> None:
    """The weights of a model are on the disk alone from now on, unless somebody has them mapped."""
    for file in folder.glob("*.safetensors"):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def measure(sides: dict[str, Side], runs: int, evicted: Path | None) -> list[Cell[float]]:
    """All rounds. Raises MeasurementFailed when a side does not come up."""
    cells = {name: Cell[float](load="start", side=name) for name in sides}
    firsts = {name: Cell[float](load="the first", side=name) for name in sides}
    names = list(sides)
    for number in range(runs + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            if evicted is not None:
                evict(evicted)
            began = time.monotonic()
            try:
                sides[name].start()
                seconds = time.monotonic() - began
            finally:
                sides[name].stop()
            (cells if number else firsts)[name].shots.append(seconds)
            print(f"round {number} {name}: ready after {seconds:.1f} s{_stages(sides[name])}", flush=True)
    return [*firsts.values(), *cells.values()]


def _stages(side: Side) -> str:
    """What the slowest rank's time went to."""
    if not isinstance(side, PhalanxServer) or not side.stages:
        return ""
    of_ranks: dict[int, float] = defaultdict(float)
    for stage in side.stages:
        of_ranks[stage.rank] += stage.seconds
    slowest = max(of_ranks, key=lambda rank: of_ranks[rank])
    return " (" + ", ".join(f"{s.stage} {s.seconds:.1f}" for s in side.stages if s.rank == slowest) + ")"


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", help=f"folder, hub name or built-in model; default on a GPU: {SHAPE} with made-up weights")
    add("--model-dir", type=Path, default=Path("/tmp", SHAPE), help="where that is built (%(default)s)")  # noqa: S108
    add_settings_flags(parser, dp_size=1, for_whom="for both")
    add("--runs", type=int, default=5, help="(%(default)s)")
    add("--evict", action="store_true", help="the model's weights, a folder's, from the page cache before each start")
    add("--json", type=Path, metavar="FILE", help="where to write all runs")
    add("--keep-logs", type=Path, metavar="DIR", help="where logs go; default: a folder that is removed")
    return parser


def main(arguments: list[str], prog: str) -> int:
    """1 when a side did not come up."""
    given = _parser(prog).parse_args(arguments)
    if given.device == "cuda":
        made_up = {"load_format": "dummy"} if given.model is None else {}
        given.engine_args = {"gpu_memory_utilization": GPU_MEMORY} | made_up | given.engine_args
    with ExitStack() as stack:
        folder = given.keep_logs or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if given.model is None:
                given.model = "phalanx-tiny-random" if given.device == "cpu" else build_model(given.model_dir)
            settings = settings_of(given)
            sides: dict[str, Side] = {
                REFERENCE: PhalanxServer.on(settings, folder),
                VllmServer.name: VllmServer(settings, folder, []),
            }
            cells = measure(sides, given.runs, Path(settings.model) if given.evict else None)
        except MeasurementFailed as error:
            print(error)
            return 1
    print(f"\n{table(cells, REFERENCE, COLUMNS)}")
    if given.json:
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode(cells), indent=1))
    return 0
