"""Which GPUs or CPU cores there are, and which rank gets which.

GPUs are counted with NVML, which neither needs torch nor creates a CUDA context, and called by NVML's indices: ranks
run with CUDA_DEVICE_ORDER=PCI_BUS_ID, NVML's order, and vLLM turns what stands in CUDA_VISIBLE_DEVICES into NVML
indices anyway. MIG instances have no index; they keep their ids. A restriction of the gateway's own process holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from app.ranks.cores import cpu_name, cpu_shares, usable_cores
from app.ranks.gpu_sharing import DeviceError, check_sharing
from app.settings.declaration import Settings, flag, label
from engines.contract.spec import EngineKind, Share

VISIBLE = "CUDA_VISIBLE_DEVICES"
CORE_BINDING = "VLLM_CPU_OMP_THREADS_BIND"
NO_GPU_WANTED = ("", "-1", "NoDevFiles")  # the last is what Slurm says to a job without GPUs
DEFAULT_CPU_RANKS = 2
SPARE_SIMULATED = 16  # they need next to nothing
CPU_BUILD = "vllm-cpu"


@dataclass(frozen=True)
class Gpu:
    """A GPU as NVML sees it."""

    index: int
    uuid: str
    name: str
    mig_uuids: tuple[str, ...] | None = None  # its MIG instances; None where MIG is off

    @property
    def names(self) -> dict[str, str]:
        """What it is, by what names it. The share of a MIG instance is told by how many there are."""
        share = "" if self.mig_uuids is None else f" MIG 1/{len(self.mig_uuids)}"
        return dict.fromkeys(self.tokens, f"{self.name}{share}")

    @property
    def tokens(self) -> tuple[str, ...]:
        """How CUDA_VISIBLE_DEVICES names what runs on it: the GPU, or each of its MIG instances."""
        return (str(self.index),) if self.mig_uuids is None else self.mig_uuids


@dataclass(frozen=True)
class Devices:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""

    tokens: tuple[str, ...] = ()
    restriction: str | None = None  # this process's own CUDA_VISIBLE_DEVICES
    warnings: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)  # of all GPUs of this machine, by what names them

    def __str__(self) -> str:
        because = "" if self.restriction is None else f" ({VISIBLE}={self.restriction})"
        return f"{len(self.tokens)} {'is' if len(self.tokens) == 1 else 'are'} visible{because}"


@dataclass(frozen=True)
class Allotment:
    """What every rank gets."""

    device: str  # "cuda" or "cpu"
    shares: tuple[Share, ...]
    warnings: tuple[str, ...] = ()
    spare: tuple[Share, ...] = ()  # for ranks that may be added later
    machine: str = ""  # what speed depends on: the GPUs' name, or the CPU's with the number of cores


def allot(settings: Settings, environ: Mapping[str, str]) -> Allotment:
    """Each rank's part of this machine. Raises DeviceError where it is not enough, or a GPU does not work."""
    if settings.launcher == "ray":
        return Allotment("cpu", ())  # of this machine; what ranks have, Ray deals out
    if settings.engine is EngineKind.SIMULATED:
        shares = (Share(),) * (settings.ranks_per_node or DEFAULT_CPU_RANKS)
        return Allotment("cpu", shares, spare=(Share(),) * SPARE_SIMULATED, machine="simulated")
    if _has_cpu_build():
        devices = _without_gpus(settings)
    else:
        devices = Devices() if settings.device == "cpu" else discover(environ)
    if devices.tokens:
        return _allot_gpus(settings, environ, devices)
    if settings.device == "cuda":
        raise DeviceError(f"{label('device')} is cuda: a GPU is asked for and missing, {devices}; say auto or cpu")
    if settings.ranks_per_gpu > 1:
        raise DeviceError(f"{label('ranks_per_gpu')} is {settings.ranks_per_gpu}, and there is no GPU: leave it out")
    return _allot_cores(settings, environ, devices.warnings)


def _allot_gpus(settings: Settings, environ: Mapping[str, str], devices: Devices) -> Allotment:
    many, tp_size = settings.ranks_per_gpu, settings.tp_size
    seats = (settings.ranks_per_node or many * max(1, len(devices.tokens) // tp_size)) // many
    gpus = assign(devices, seats, tp_size)
    machine = " + ".join(sorted({devices.names[token] for tokens in gpus for token in tokens}))
    if many > 1:
        check_sharing(settings, environ, devices.tokens)
        machine = f"{machine}, {many} ranks each"
    rest = replace(devices, tokens=devices.tokens[seats * tp_size :])
    spare = assign(rest, len(rest.tokens) // tp_size, tp_size)
    # Those of one GPU are not neighbours: few items, which go to the first ranks, are spread over all GPUs.
    shares, more = (tuple(Share(tokens, ranks_per_gpu=many) for tokens in dealt * many) for dealt in (gpus, spare))
    return Allotment("cuda", shares, devices.warnings, more, machine)


def _has_cpu_build() -> bool:
    """Whether the vLLM that is installed is the build for CPUs, a distribution of its own. It is not imported."""
    try:
        metadata.distribution(CPU_BUILD)
    except metadata.PackageNotFoundError:
        return False
    return True


def _without_gpus(settings: Settings) -> Devices:
    """What the build for CPUs may use. Raises DeviceError where a GPU is asked for."""
    if settings.device == "cuda":
        raise DeviceError(
            f"{label('device')} is cuda: a GPU is asked for, and the vLLM that is installed is its build for CPUs "
            f"({CPU_BUILD}); install the one for CUDA (make serve ENGINE=cuda), or say auto or cpu"
        )
    if settings.device == "cpu" or not _device_files():
        return Devices()
    return Devices(warnings=(f"there are GPUs, and they stay idle: {CPU_BUILD} is vLLM's build for CPUs",))


def _allot_cores(settings: Settings, environ: Mapping[str, str], warnings: tuple[str, ...]) -> Allotment:
    dp_size, tp_size = settings.ranks_per_node or DEFAULT_CPU_RANKS, settings.tp_size
    workers = dp_size * tp_size
    if binding := environ.get(CORE_BINDING):
        bound = tuple(Share(cores=cores) for cores in _bound(binding, dp_size, tp_size))
        return Allotment("cpu", bound, warnings, machine=f"CPU {cpu_name()}, cores {binding}")
    cores = usable_cores(workers)
    if len(cores) < workers:
        scarce = f"dp_size {dp_size} x tp_size {tp_size} is {workers} workers, which share {len(cores)} cores"
        warnings = (*warnings, f"{scarce}; fewer of them may be faster")
    shares = tuple(Share(cores=share) for share in cpu_shares(cores, dp_size, tp_size))
    return Allotment("cpu", shares, warnings, machine=f"CPU {cpu_name()}, {len(cores)} cores")


def _bound(binding: str, dp_size: int, tp_size: int) -> list[str]:
    """The operator's own binding: a portion for every worker of all ranks, or vLLM's `auto` or `nobind`.

    Each rank is told its part, since vLLM in a rank of its own takes the whole list for that rank's.
    """
    if binding in ("auto", "nobind"):
        return [binding] * dp_size
    portions = binding.split("|")
    if len(portions) != dp_size * tp_size:
        raise DeviceError(
            f"{CORE_BINDING} is {binding}: it names cores for {len(portions)} workers, and dp_size {dp_size} x tp_size "
            f"{tp_size} is {dp_size * tp_size}; separate that many with '|', or unset it"
        )
    return ["|".join(portions[rank * tp_size : (rank + 1) * tp_size]) for rank in range(dp_size)]


def assign(devices: Devices, dp_size: int, tp_size: int) -> list[tuple[str, ...]]:
    """The GPUs of each rank, neighbours together. Raises DeviceError where there are too few."""
    if dp_size * tp_size > len(devices.tokens):
        raise DeviceError(
            f"dp_size {dp_size} x tp_size {tp_size} needs {dp_size * tp_size} GPUs, {devices}: "
            f"lower {flag('dp_size')} or {flag('tp_size')}, or make more visible"
        )
    if tp_size > 1 and any(token.startswith("MIG-") for token in devices.tokens):
        raise DeviceError(f"{label('tp_size')} is {tp_size}: MIG instances cannot work together; it must be 1")
    return [devices.tokens[rank * tp_size : (rank + 1) * tp_size] for rank in range(dp_size)]


def discover(environ: Mapping[str, str]) -> Devices:
    """The GPUs that this process may use. Raises DeviceError where there is one that does not work."""
    gpus = read_gpus()
    names = {token: name for gpu in gpus for token, name in gpu.names.items()}
    return replace(visible(gpus, environ), names=names)


def visible(gpus: Sequence[Gpu], environ: Mapping[str, str]) -> Devices:
    """What is left of the GPUs under CUDA_VISIBLE_DEVICES.

    Read as CUDA reads it: entries up to the first that names no GPU count, and none do if one is repeated.
    """
    restriction = environ.get(VISIBLE)
    if restriction is None or not gpus:
        return Devices(tuple(token for gpu in gpus for token in gpu.tokens), restriction)
    entries = [entry.strip() for entry in restriction.split(",")]
    if entries[0] in NO_GPU_WANTED:
        return Devices((), restriction)
    tokens: list[str] = []
    for entry in entries:
        token = _token(entry, gpus) if _form(entry) == _form(entries[0]) else None
        if token is None:
            break
        tokens.append(token)
    if not tokens or len(set(tokens)) < len(tokens):
        raise DeviceError(
            f"{VISIBLE} is {restriction}: CUDA sees no GPU with it, and there are {len(gpus)}; "
            "name each once, by its index or its whole id"
        )
    return Devices(tuple(tokens), restriction, tuple(_doubts(restriction, entries, tokens, gpus, environ)))


def _form(entry: str) -> str:
    """CUDA takes indices, or ids, or MIG ids, and no mixture."""
    return entry[:4] if entry.startswith(("GPU-", "MIG-")) else "index"


def _token(entry: str, gpus: Sequence[Gpu]) -> str | None:
    """The device that an entry names, by an index or by the beginning of one id; None if there is none."""
    if entry.isdecimal():
        named = [gpu.tokens[:1] for gpu in gpus if gpu.index == int(entry)]
    elif entry.startswith("GPU-"):
        named = [gpu.tokens[:1] for gpu in gpus if gpu.uuid.startswith(entry)]
    elif entry.startswith("MIG-"):
        named = [(mig,) for gpu in gpus for mig in gpu.mig_uuids or () if mig.startswith(entry)]
    else:
        named = []
    return named[0][0] if len(named) == 1 and named[0] else None


def _doubts(
    restriction: str, entries: Sequence[str], tokens: Sequence[str], gpus: Sequence[Gpu], environ: Mapping[str, str]
) -> list[str]:
    """What the operator may have meant otherwise."""
    doubts = []
    if len(tokens) < len(entries):
        doubts.append(f"{VISIBLE} is {restriction}: CUDA ignores what stands from {entries[len(tokens)]!r} on")
    mixed = len({gpu.name for gpu in gpus}) > 1
    if mixed and entries[0].isdecimal() and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        doubts.append(f"{VISIBLE} is {restriction}: read in the order of nvidia-smi, not with the fastest GPU first")
    return doubts


def read_gpus() -> list[Gpu]:
    """All GPUs that NVML lists; none where there is no NVIDIA driver. Raises DeviceError where one is broken."""
    import pynvml  # only where GPUs are looked for

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if isinstance(error, pynvml.NVMLError_LibraryNotFound) and not _device_files():
            return []
        raise _broken(str(error)) from error
    try:
        gpus = [_read_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        raise _broken(str(error)) from error
    finally:
        pynvml.nvmlShutdown()
    if not gpus and _device_files():
        raise _broken("NVML lists no GPU")
    return gpus


def _read_gpu(nvml: Any, index: int) -> Gpu:  # Any: the module pynvml, which is untyped
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    return Gpu(index, nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle), _read_mig_uuids(nvml, handle))


def _read_mig_uuids(nvml: Any, handle: Any) -> tuple[str, ...] | None:  # Any: as above
    try:
        if nvml.nvmlDeviceGetMigMode(handle)[0] != nvml.NVML_DEVICE_MIG_ENABLE:
            return None
    except nvml.NVMLError_NotSupported:
        return None
    uuids = []
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            uuids.append(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)))
        except nvml.NVMLError_NotFound:
            continue  # instances are numbered with gaps
    return tuple(uuids)


def _device_files() -> list[str]:
    return sorted(str(file) for file in Path("/dev").glob("nvidia[0-9]*"))


def _broken(reason: str) -> DeviceError:
    files = ", ".join(_device_files()) or "none in /dev"
    return DeviceError(
        f"the NVIDIA driver does not work ({reason}; devices: {files}): mend it (does nvidia-smi run?), or say "
        f"{flag('device')} cpu to do without GPUs"
    )
