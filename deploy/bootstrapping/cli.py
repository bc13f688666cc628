"""The command line of deploy/bootstrap.py. Exit codes: 0 set up, 1 a step failed, 2 the user must act first."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from . import environment as environments
from .decisions import (
    Action,
    CannotSetUpError,
    Engine,
    InstallationError,
    Stamp,
    Wanted,
    choose_engine,
    obstacles,
    plan,
)
from .installer import Installer
from .machine import gpu_is_present, inspect_machine, python_version
from .progress import complain, say

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Sets up, and turns what went wrong into sentences."""
    options = _parse(arguments)
    try:
        set_up(options.engine, environments.Environment(options.venv), has_dev=options.dev, only_check=options.check)
    except CannotSetUpError as error:
        complain(*error.sentences)
        return 2
    except InstallationError as error:
        complain(error.output, error.sentence)
        return 1
    except KeyboardInterrupt:
        complain("Interrupted: the next run starts again.")
        return 130
    return 0


def set_up(asked: Engine | None, environment: environments.Environment, *, has_dev: bool, only_check: bool) -> None:
    """Does what is left to do, or says what it would be."""
    # The usual case, quick: a GPU that is merely present counts as working when the environment already holds CUDA.
    likely = asked or (Engine.CUDA if gpu_is_present() else Engine.CPU)
    if plan(_wanted(likely, has_dev=has_dev), environment.found()).action is Action.NOTHING:
        say(f"{environment.path} is up to date (engine: {likely}).")
        return
    machine = inspect_machine(_existing(environment.path))
    wanted = _wanted(choose_engine(asked, machine.gpu), has_dev=has_dev)
    todo = plan(wanted, environment.found())
    sentences = list(obstacles(machine, wanted.engine, needs_disk=todo.action in {Action.CREATE, Action.REBUILD}))
    if sentences:
        raise CannotSetUpError(*sentences)
    say(f"Engine: {wanted.engine} ({'as asked' if asked else _why(wanted.engine)}).")
    if only_check:
        say(f"Nothing stands in the way of setting up {environment.path}: {todo.reason}.")
        return
    _install(environment, wanted)


def _install(environment: environments.Environment, wanted: Wanted) -> None:
    with environment.locked() as lock:
        found = environment.found()
        todo = plan(wanted, found)
        if todo.action is Action.NOTHING:
            say(f"{environment.path} has been set up meanwhile.")
            return
        # Tools that are there stay: `make serve` after `make test` must not take turns with it.
        keeps_dev = todo.action is Action.EXTEND and found.stamp is not None and found.stamp.has_dev
        stamp = Stamp(wanted.engine, wanted.has_dev or keeps_dev, wanted.inputs)
        Installer(ROOT, environment, stamp, lock).run(todo)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bootstrap.py", description="Sets up the environment that Phalanx runs in.")
    parser.add_argument(
        "--engine",
        type=_engine,
        metavar="{auto,cuda,cpu}",
        help="which build of vLLM; auto (the default): CUDA where there is an NVIDIA GPU, else CPU",
    )
    parser.add_argument(
        "--venv", type=Path, default=ROOT / ".venv", help="where (default: .venv beside pyproject.toml)"
    )
    parser.add_argument("--dev", action="store_true", help="also what the tests and checks need")
    parser.add_argument("--check", action="store_true", help="only say what stands in the way")
    return parser.parse_args(arguments)


def _engine(name: str) -> Engine | None:
    if name == "auto":
        return None
    try:
        return Engine(name)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{name!r} is none of auto, cuda, cpu") from None


def _wanted(engine: Engine, *, has_dev: bool) -> Wanted:
    files = [ROOT / "pyproject.toml", ROOT / "constraints.txt", ROOT / f"constraints-{engine}.txt"]
    steps = Path(__file__).with_name("installer.py")  # other steps leave another environment
    return Wanted(engine, has_dev, python_version(), environments.hash_files(*files, steps, place=ROOT))


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _why(engine: Engine) -> str:
    return "an NVIDIA GPU answers" if engine is Engine.CUDA else "there is no NVIDIA GPU"
