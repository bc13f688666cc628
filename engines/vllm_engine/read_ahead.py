"""Weights come from the disk into the page cache while Python imports vLLM, and loading finds them there."""

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path
from threading import Thread

from engines import logs
from engines.contract.spec import RankSpec
from engines.host import processes
from engines.vllm_engine.checkpoint import checkpoint_files

logger = logs.get_logger(logs.RANK_LOGGER)
PIECE_BYTES = 4 << 20
DECIDING_FLAGS = ("--load-format", "--load_format", "--revision")  # behind `--`, where nothing but vLLM reads them
READ_FORMATS = (None, "auto", "safetensors")


def begin(spec: RankSpec) -> None:
    """On a thread of its own. Weights that are not on this machine, or not read from a file, are left to vLLM."""
    is_told = any(flag.partition("=")[0] in DECIDING_FLAGS for flag in spec.extra_args)
    if is_told or spec.engine_args.get("load_format") not in READ_FORMATS:
        return
    with contextlib.suppress(OSError, ValueError):  # loading meets whatever is wrong, too, and says it better
        files = checkpoint_files(spec.model, spec.engine_args.get("revision"))
        size, room = sum(file.stat().st_size for file in files), processes.free_memory()
        if size > room:
            logger.info("weights_not_read_ahead", bytes=size, reason=f"{room} bytes of memory are free")
        elif size:
            Thread(target=_run, args=(files, size), name="read-ahead", daemon=True).start()


def _run(files: list[Path], size: int) -> None:
    """It imports nothing: two threads that import at once can meet half-made modules."""
    with contextlib.suppress(OSError):
        began = time.monotonic()
        read(files)
        logger.info("weights_read_ahead", files=len(files), bytes=size, seconds=round(time.monotonic() - began, 2))


def read(files: Iterable[Path]) -> None:
    """Into the page cache. Raises OSError."""
    piece = bytearray(PIECE_BYTES)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(piece):  # the kernel would do so on being advised, but no more than a little at a time
                pass
