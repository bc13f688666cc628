"""Whether several ranks can share a GPU of this machine."""

import shutil
from collections.abc import Mapping, Sequence

from app.settings.declaration import Settings, SettingsError, label
from engines.host import mps


class DeviceError(SettingsError):
    """The machine has not what the settings ask for, or its GPUs do not work."""


def check_sharing(settings: Settings, environ: Mapping[str, str], gpus: Sequence[str]) -> None:
    """Of these GPUs, as CUDA_VISIBLE_DEVICES names them. Raises DeviceError."""
    where = f"{label('ranks_per_gpu')} is {settings.ranks_per_gpu}"
    if any(gpu.startswith("MIG-") for gpu in gpus):
        raise DeviceError(f"{where}, and a MIG instance is a part of a GPU already: leave it out")
    if settings.mps and not mps.is_given(environ) and shutil.which(mps.CONTROL, path=environ.get("PATH")) is None:
        raise DeviceError(
            f"{where}, and {mps.CONTROL}, NVIDIA's MPS, is not on the PATH: it comes with the driver; make it visible, "
            "or say --no-mps, and the ranks of a GPU take turns"
        )
