"""The command line of the engine side: `python -P -m engines COMMAND`. Meant for the gateway, not for people."""

import argparse
import os
import sys
import threading
from pathlib import Path
from typing import NoReturn

import msgspec

from engines.tiny_model.shapes import Shape


def main() -> NoReturn:
    """Runs one command. Each imports only what it needs: `inspect` must answer before torch could be imported."""
    arguments = _parser().parse_args()
    sys.exit(_COMMANDS[arguments.command](arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -P -m engines")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("rank", help="be a rank").add_argument("spec")
    commands.add_parser("guard", help="start a rank and clean up after it").add_argument("spec")
    mps = commands.add_parser("mps", help="run NVIDIA's MPS, and end with standard input")
    mps.add_argument("folder", type=Path)
    inspect = commands.add_parser("inspect", help="print what a model is, as one line of JSON")
    inspect.add_argument("--model", required=True)
    inspect.add_argument("--revision")
    inspect.add_argument("--lifeline", action="store_true", help="end when standard input does")
    build = commands.add_parser("build-model", help="build a small model")
    build.add_argument("--shape", required=True, choices=[shape.value for shape in Shape])
    build.add_argument("--out", required=True, type=Path, metavar="DIR", help="the model's folder")
    train = commands.add_parser("train-model", help="train the built-in model anew: a quarter of an hour")
    train.add_argument("--out", required=True, type=Path, metavar="DIR", help="engines/tiny_model/trained, to ship it")
    tiles = commands.add_parser("tune-tiles", help="measure tiles of fused MoE on a GPU, and write vLLM's file of them")
    tiles.add_argument("--model", required=True)
    tiles.add_argument("--revision")
    tiles.add_argument("--file", required=True, type=Path, help="with the name that vLLM looks for")
    tiles.add_argument("--seconds", required=True, type=float, help="how long it may take")
    return parser


def _rank(arguments: argparse.Namespace) -> int:
    from engines.rank import serve

    return serve.main(arguments.spec, os.environ)


def _guard(arguments: argparse.Namespace) -> int:
    from engines.host import guardian

    return guardian.main(arguments.spec)


def _mps(arguments: argparse.Namespace) -> int:
    from engines.host import mps_guardian

    return mps_guardian.main(arguments.folder)


def _inspect(arguments: argparse.Namespace) -> int:
    from engines.host.inspect_model import ModelUnusable, inspect

    if arguments.lifeline:
        threading.Thread(target=_end_with_standard_input, name="lifeline", daemon=True).start()
    try:
        answer: object = inspect(arguments.model, arguments.revision)
        code = 0
    except ModelUnusable as error:
        answer, code = {"error": str(error)}, 2
    sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
    return code


def _end_with_standard_input() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def _build(arguments: argparse.Namespace) -> int:
    from engines.tiny_model.build import build
    from engines.tiny_model.shapes import Shape

    try:
        folder = build(Shape(arguments.shape), arguments.out)
    except (ImportError, OSError) as error:
        sys.stderr.write(f"cannot build the model: {error}\n")
        return 1
    sys.stdout.write(f"{folder}\n")
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from engines.tiny_model.training.train import train

    def report(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    try:
        train(arguments.out, report)
    except (ImportError, OSError) as error:
        sys.stderr.write(f"cannot train the model: {error}\n")
        return 1
    sys.stdout.write(f"{arguments.out}\n")
    return 0


def _tune_tiles(arguments: argparse.Namespace) -> int:
    from engines.vllm_engine.moe_tiles import TilesUnsuitable, tune_tiles

    try:
        better = tune_tiles(arguments.model, arguments.revision, arguments.file, arguments.seconds)
    except (ImportError, OSError, TilesUnsuitable) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{better}\n")
    return 0


_COMMANDS = {
    "rank": _rank,
    "guard": _guard,
    "mps": _mps,
    "inspect": _inspect,
    "build-model": _build,
    "train-model": _train,
    "tune-tiles": _tune_tiles,
}

if __name__ == "__main__":
    main()
