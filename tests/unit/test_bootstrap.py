"""What deploy/bootstrap.py decides from the facts of a machine and of a folder, and how it records what it did."""

import ast
import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "deploy"))  # where the entry's own directory is when it runs

from bootstrapping import decisions
from bootstrapping.decisions import (
    Action,
    CannotSetUpError,
    Engine,
    Found,
    Gpu,
    InstallationError,
    Machine,
    Stamp,
    Wanted,
)
from bootstrapping.environment import MARKER, Environment, hash_files

ROOT = Path(__file__).parents[2]

Facts = dict[str, Any]  # fields of Machine or Found, varied by name
NO_GPU = Gpu(is_present=False)
WORKING_GPU = Gpu(is_present=True, driver_answers=True, driver_cuda=(13, 0))
DEAD_GPU = Gpu(is_present=True)

GOOD_MACHINE = Machine(
    system="Linux",
    architecture="x86_64",
    glibc=(2, 36),
    cpu_flags=frozenset({"sse4_2", "avx2"}),
    has_ensurepip=True,
    has_python_headers=True,
    cxx="g++",
    has_cxx=True,
    has_libnuma=True,
    free_disk_gb=100.0,
    gpu=WORKING_GPU,
)

WANTED = Wanted(Engine.CPU, has_dev=False, python=(3, 12), inputs="today")
COMPLETE = Found(
    is_empty=False,
    is_environment=True,
    has_pip=True,
    python=(3, 12),
    engine=Engine.CPU,
    was_moved=False,
    was_interrupted=False,
    stamp=Stamp(Engine.CPU, has_dev=False, inputs="today"),
)


@pytest.mark.parametrize(
    ("asked", "gpu", "engine"),
    [
        (None, NO_GPU, Engine.CPU),
        (None, WORKING_GPU, Engine.CUDA),
        (None, Gpu(is_present=False, driver_answers=True), Engine.CUDA),  # WSL: a driver, and no device to see
        (Engine.CPU, WORKING_GPU, Engine.CPU),
        (Engine.CPU, DEAD_GPU, Engine.CPU),
        (Engine.CUDA, WORKING_GPU, Engine.CUDA),
    ],
)
def test_the_engine_follows_the_gpu_unless_one_is_asked_for(asked: Engine | None, gpu: Gpu, engine: Engine) -> None:
    assert decisions.choose_engine(asked, gpu) is engine


@pytest.mark.parametrize(("asked", "gpu"), [(None, DEAD_GPU), (Engine.CUDA, DEAD_GPU), (Engine.CUDA, NO_GPU)])
def test_a_gpu_without_a_working_driver_is_the_users_to_mend(asked: Engine | None, gpu: Gpu) -> None:
    with pytest.raises(CannotSetUpError, match=r"fix the driver.*ENGINE=cpu"):
        decisions.choose_engine(asked, gpu)


@pytest.mark.parametrize("engine", list(Engine))
def test_nothing_stands_in_the_way_on_a_good_machine(engine: Engine) -> None:
    assert _obstacles(engine) == []


@pytest.mark.parametrize(
    ("engine", "flaw", "sentence"),
    [
        (Engine.CPU, {"system": "Darwin"}, "Linux on x86_64 and aarch64, and this is Darwin on x86_64"),
        (Engine.CPU, {"architecture": "riscv64"}, "this is Linux on riscv64"),
        (Engine.CPU, {"glibc": None}, "another C library"),
        (Engine.CPU, {"glibc": (2, 17)}, "glibc 2.28 or newer, and this system has glibc 2.17"),
        (Engine.CPU, {"cpu_flags": frozenset({"sse4_2"})}, "needs AVX2"),
        (Engine.CPU, {"has_ensurepip": False}, "apt install python3-venv"),
        (Engine.CPU, {"has_cxx": False, "cxx": "clang++"}, "no C++ compiler `clang++`"),
        (Engine.CUDA, {"has_python_headers": False}, "apt install python3-dev"),
        (Engine.CPU, {"has_libnuma": False}, "apt install libnuma1"),
        (Engine.CPU, {"free_disk_gb": 4.2}, "needs about 5 GB of disk, and 4.2 GB are free"),
        (Engine.CUDA, {"free_disk_gb": 12.0}, "needs about 18 GB of disk"),
        (Engine.CUDA, {"gpu": Gpu(True, True, (12, 8))}, "CUDA up to 12.8: install driver R580"),
    ],
)
def test_what_would_fail_late_is_one_sentence_each(engine: Engine, flaw: Facts, sentence: str) -> None:
    (obstacle,) = _obstacles(engine, **flaw)
    assert sentence in obstacle


@pytest.mark.parametrize(
    ("engine", "fact"),
    [
        (Engine.CPU, {"gpu": Gpu(True, True, (12, 8))}),  # the driver matters to CUDA alone
        (Engine.CUDA, {"gpu": Gpu(True, True, None)}),  # a driver that does not say is given the benefit of the doubt
        (Engine.CUDA, {"gpu": Gpu(True, True, (13, 4))}),
        (Engine.CUDA, {"cpu_flags": frozenset({"sse4_2"}), "has_libnuma": False}),
        (Engine.CPU, {"cpu_flags": frozenset()}),  # unknown
        (Engine.CPU, {"architecture": "aarch64", "cpu_flags": frozenset({"asimd"})}),
    ],
)
def test_what_does_not_matter_to_the_engine_is_no_obstacle(engine: Engine, fact: Facts) -> None:
    assert _obstacles(engine, **fact) == []


def test_extending_an_environment_needs_no_room_for_a_whole_one() -> None:
    machine = dataclasses.replace(GOOD_MACHINE, free_disk_gb=1.0)
    assert list(decisions.obstacles(machine, Engine.CPU, needs_disk=False)) == []


def test_an_environment_that_holds_what_is_wanted_is_left_alone() -> None:
    assert _action() is Action.NOTHING
    assert _action(stamp=Stamp(Engine.CPU, has_dev=True, inputs="today")) is Action.NOTHING  # more is no harm


def test_a_folder_that_is_not_there_or_empty_gets_an_environment() -> None:
    nothing = Found(True, False, False, None, None, was_moved=False, was_interrupted=False, stamp=None)
    assert decisions.plan(WANTED, nothing).action is Action.CREATE


def test_a_folder_with_something_else_in_it_is_refused() -> None:
    with pytest.raises(CannotSetUpError, match="no virtual environment"):
        _action(is_environment=False)


@pytest.mark.parametrize(
    "change",
    [
        {"stamp": None},
        {"stamp": None, "engine": None},
        {"stamp": Stamp(Engine.CPU, has_dev=False, inputs="yesterday")},
    ],
)
def test_an_environment_that_lacks_something_is_extended(change: Facts) -> None:
    assert _action(**change) is Action.EXTEND


def test_the_developers_tools_are_added_where_they_are_missing() -> None:
    wanted = dataclasses.replace(WANTED, has_dev=True)
    assert decisions.plan(wanted, COMPLETE).action is Action.EXTEND


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"was_interrupted": True}, "interrupted"),
        ({"was_interrupted": True, "is_environment": False}, "interrupted"),
        ({"was_moved": True}, "another place"),
        ({"python": None}, "its Python is gone"),
        ({"python": (3, 11)}, "it has Python 3.11, and this is 3.12"),
        ({"has_pip": False, "stamp": None}, "no pip"),
        ({"engine": Engine.CUDA, "stamp": Stamp(Engine.CUDA, has_dev=False, inputs="today")}, "the cuda engine"),
    ],
)
def test_an_environment_that_cannot_be_mended_is_made_anew(change: Facts, reason: str) -> None:
    plan = decisions.plan(WANTED, dataclasses.replace(COMPLETE, **change))
    assert plan.action is Action.REBUILD
    assert reason in plan.reason


@pytest.mark.parametrize(
    ("header", "cuda"),
    [
        ("| NVIDIA-SMI 580.65.06   Driver Version: 580.65.06   CUDA Version: 13.0     |", (13, 0)),
        ("| NVIDIA-SMI 550.54.15   Driver Version: 550.54.15   CUDA Version: 12.4     |", (12, 4)),
        ("| NVIDIA-SMI 550.54.15   Driver Version: 550.54.15   CUDA Version: N/A      |", None),
        ("", None),
    ],
)
def test_the_drivers_cuda_version_is_read_from_the_header(header: str, cuda: tuple[int, int] | None) -> None:
    assert decisions.driver_cuda(header) == cuda


def test_torch_companions_go_unless_they_are_cpu_builds() -> None:
    installed = ["torchvision-0.28.0.dist-info", "torchaudio-2.11.0+cpu.dist-info", "torch-2.13.0+cpu.dist-info"]
    assert decisions.companions_to_remove(installed) == ["torchvision"]


def test_an_installation_that_ends_well_is_on_record(tmp_path: Path) -> None:
    environment, stamp = Environment(tmp_path), Stamp(Engine.CPU, has_dev=True, inputs="today")
    with environment.changing(stamp):
        assert environment.found().was_interrupted
    assert environment.found().stamp == stamp
    assert not environment.found().was_interrupted


def test_an_installation_cut_short_leaves_no_record(tmp_path: Path) -> None:
    environment, stamp = Environment(tmp_path), Stamp(Engine.CPU, has_dev=True, inputs="today")
    with environment.changing(stamp):
        pass
    with pytest.raises(KeyboardInterrupt), environment.changing(stamp):
        raise KeyboardInterrupt
    assert environment.found().stamp is None
    assert environment.found().was_interrupted


def test_after_a_failure_of_pip_the_next_run_goes_on(tmp_path: Path) -> None:
    environment = Environment(tmp_path)
    failure = InstallationError("pip could not install the packages.", "no route to host")
    with pytest.raises(InstallationError), environment.changing(Stamp(Engine.CPU, has_dev=False, inputs="")):
        raise failure
    assert environment.found().stamp is None
    assert not environment.found().was_interrupted


@pytest.mark.parametrize("record", ["", "[]", "{}", json.dumps({"engine": "tpu", "has_dev": True, "inputs": ""})])
def test_a_record_that_cannot_be_read_is_none(tmp_path: Path, record: str) -> None:
    (tmp_path / "phalanx-setup.json").write_text(record)
    assert Environment(tmp_path).found().stamp is None


def test_an_environment_knows_that_it_was_moved(tmp_path: Path) -> None:
    here, link = tmp_path / "checkout of mine" / ".venv", tmp_path / "link"
    here.mkdir(parents=True)
    link.symlink_to(here)
    for made_at, was_moved in ((here, False), (link, False), (tmp_path / "elsewhere" / ".venv", True)):
        (here / "pyvenv.cfg").write_text(f"version = 3.12.1\ncommand = /usr/bin/python3 -m venv {made_at}\n")
        assert Environment(here).found().was_moved is was_moved


def test_clearing_spares_the_lock_and_the_marker_and_follows_no_link(tmp_path: Path) -> None:
    folder, outside = tmp_path / ".venv", tmp_path / "outside"
    (folder / "lib").mkdir(parents=True)
    outside.mkdir()
    (outside / "precious").touch()
    (folder / "lib64").symlink_to(outside)
    environment = Environment(folder)
    with environment.locked():
        (folder / MARKER).touch()
        environment.clear()
        assert sorted(entry.name for entry in folder.iterdir()) == ["phalanx-setup.lock", MARKER]
    assert (outside / "precious").exists()


def test_any_change_of_pins_or_place_changes_the_hash(tmp_path: Path) -> None:
    pins = tmp_path / "constraints.txt"
    pins.write_text("torch==2.13.0\n")
    before = hash_files(pins, place=tmp_path)
    assert hash_files(pins, place=tmp_path) == before
    assert hash_files(pins, place=tmp_path / "moved") != before
    pins.write_text("torch==2.14.0\n")
    assert hash_files(pins, place=tmp_path) != before


def test_the_entry_parses_on_every_python() -> None:
    tree = ast.parse((ROOT / "deploy" / "bootstrap.py").read_text(encoding="ascii"))
    too_new = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Match, ast.FunctionDef, ast.AsyncFunctionDef)
    assert [type(node) for node in ast.walk(tree) if isinstance(node, too_new)] == []


@pytest.mark.parametrize("engine", list(Engine))
def test_the_engines_constraints_contradict_no_pin_of_the_gateways(engine: Engine) -> None:
    ours, theirs = _pins("constraints.txt"), _pins(f"constraints-{engine}.txt")
    assert {name: theirs[name] for name in ours.keys() & theirs.keys()}.items() <= ours.items()


def test_torch_is_pinned_once_and_without_the_name_of_a_build() -> None:
    assert re.fullmatch(r"[\d.]+", decisions.pinned_version("torch", (ROOT / "constraints-cpu.txt").read_text()))
    with pytest.raises(CannotSetUpError, match="pin no torch"):
        decisions.pinned_version("torch", (ROOT / "constraints.txt").read_text())


def test_the_cuda_image_holds_the_vllm_that_is_pinned() -> None:
    version = decisions.pinned_version("vllm", (ROOT / "constraints-cuda.txt").read_text())
    assert f"ARG VLLM={version}\n" in (ROOT / "docker" / "Dockerfile.cuda").read_text()


def _obstacles(engine: Engine, **facts: Any) -> list[str]:
    machine = dataclasses.replace(GOOD_MACHINE, **facts)
    return list(decisions.obstacles(machine, engine, needs_disk=True))


def _action(**change: Any) -> Action:
    found = dataclasses.replace(COMPLETE, **change)
    return decisions.plan(WANTED, found).action


def _pins(file: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (ROOT / file).read_text(), re.MULTILINE))
