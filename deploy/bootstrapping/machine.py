"""Looks at this machine: its GPU, toolchain and disk, and whether PyTorch's index can be reached."""

import contextlib
import ctypes
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import threading
import urllib.request
from pathlib import Path

from .decisions import Gpu, Machine, driver_cuda

TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
INDEX_DEADLINE_S = 3.0
NVIDIA_SMI_DEADLINE_S = 60.0  # without persistence mode it starts the driver first, which takes seconds for each GPU


def python_version() -> tuple[int, int]:
    """The running Python's, which becomes the environment's."""
    return sys.version_info[:2]


def inspect_machine(disk_of: Path) -> Machine:
    """All facts that decide about an installation onto the disk that `disk_of` lies on."""
    cxx = (os.environ.get("CXX") or "g++").split()[0]
    return Machine(
        system=platform.system(),
        architecture=platform.machine(),
        glibc=_glibc(),
        cpu_flags=_cpu_flags(),
        has_ensurepip=importlib.util.find_spec("venv") is not None
        and importlib.util.find_spec("ensurepip") is not None,
        has_python_headers=(Path(sysconfig.get_path("include")) / "Python.h").is_file(),
        cxx=cxx,
        has_cxx=shutil.which(cxx) is not None,
        has_libnuma=_loads("libnuma.so.1"),
        free_disk_gb=shutil.disk_usage(disk_of).free / 1e9,
        gpu=inspect_gpu(),
    )


def gpu_is_present() -> bool:
    """Whether an NVIDIA GPU is there, working or not; reads only files, and is quick."""
    if Path("/proc/driver/nvidia").exists() or any(Path("/dev").glob("nvidia*")):
        return True
    return any(_is_nvidia_display(device) for device in Path("/sys/bus/pci/devices").glob("*"))


def inspect_gpu() -> Gpu:
    """Asks the driver too."""
    listing = _output("nvidia-smi", "-L")
    answers = listing is not None and "GPU " in listing
    header = _output("nvidia-smi") if answers else None
    return Gpu(gpu_is_present(), answers, driver_cuda(header) if header else None)


def torch_index_answers() -> bool:
    """Whether PyTorch's index for CPU builds answers within the deadline, through the user's proxies."""
    answers = threading.Event()

    def probe() -> None:
        request = urllib.request.Request(f"{TORCH_CPU_INDEX}/torch/", method="HEAD")  # noqa: S310 - it is https
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=INDEX_DEADLINE_S):  # noqa: S310
            answers.set()

    # In a thread, because looking up a name has no deadline of its own.
    prober = threading.Thread(target=probe, name="torch-index-probe", daemon=True)
    prober.start()
    prober.join(INDEX_DEADLINE_S)
    return answers.is_set()


def _glibc() -> tuple[int, int] | None:
    library, version = platform.libc_ver()
    if library != "glibc":
        return None
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def _cpu_flags() -> frozenset[str]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


def _loads(library: str) -> bool:
    with contextlib.suppress(OSError):
        ctypes.CDLL(library)
        return True
    return False


def _is_nvidia_display(device: Path) -> bool:
    with contextlib.suppress(OSError):
        vendor, pci_class = (device / "vendor").read_text(), (device / "class").read_text()
        return vendor.strip() == "0x10de" and pci_class.startswith("0x03")
    return False


def _output(*command: str) -> str | None:
    """What a command prints; None when it is not there, fails or hangs, as nvidia-smi does with a broken driver."""
    program = shutil.which(command[0])
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, timeout=NVIDIA_SMI_DEADLINE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
