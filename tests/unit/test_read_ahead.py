"""Weights are in the page cache before anything loads them, and what is no file of weights is left alone."""

import ctypes
import mmap
import os
import time
from pathlib import Path

import pytest
from rank_specs import rank_spec

from engines.vllm_engine import read_ahead

pytest.importorskip("huggingface_hub")
MIB = 1 << 20


def evicted(file: Path) -> Path:
    """A file of weights that is on the disk alone."""
    file.write_bytes(os.urandom(8 * MIB))
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    if is_cached(file):
        pytest.skip("this file system keeps its files in memory")
    return file


def is_cached(file: Path) -> bool:
    """Whether its last page is. Reading it, even without waiting, would bring it there."""
    libc = ctypes.CDLL(None, use_errno=True)
    with file.open("rb") as content, mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        pages = (ctypes.c_ubyte * (len(mapped) // mmap.PAGESIZE))()
        start = ctypes.c_char.from_buffer(mapped)
        found = libc.mincore(ctypes.byref(start), ctypes.c_size_t(len(mapped)), pages)
        del start  # or the mapping could not be closed
    assert found == 0, os.strerror(ctypes.get_errno())
    return bool(pages[-1] & 1)


def become_cached(file: Path) -> bool:
    deadline = time.monotonic() + 10
    while not is_cached(file) and time.monotonic() < deadline:
        time.sleep(0.01)
    return is_cached(file)


def stays_on_disk(file: Path) -> bool:
    time.sleep(0.3)
    return not is_cached(file)


def test_weights_are_in_memory_before_anything_loads_them(tmp_path: Path) -> None:
    file = evicted(tmp_path / "model.safetensors")
    read_ahead.begin(rank_spec(model=str(tmp_path)))
    assert become_cached(file)


@pytest.mark.parametrize(
    "told",
    [
        {"engine_args": {"load_format": "dummy"}},
        {"extra_args": ["--load-format", "dummy"]},
        {"extra_args": ["--load-format=dummy"]},
        {"extra_args": ["--revision", "main"]},
    ],
)
def test_weights_that_may_not_be_those_are_left_to_vllm(tmp_path: Path, told: dict[str, object]) -> None:
    file = evicted(tmp_path / "model.safetensors")
    read_ahead.begin(rank_spec(model=str(tmp_path), **told))
    assert stays_on_disk(file)


def test_weights_that_do_not_fit_into_memory_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = evicted(tmp_path / "model.safetensors")

    monkeypatch.setattr("engines.host.processes.free_memory", lambda: 8 * MIB - 1)
    read_ahead.begin(rank_spec(model=str(tmp_path)))
    assert stays_on_disk(file)


@pytest.mark.parametrize("index", [b"no JSON", b"[]", b'{"weight_map":{"a":"missing.safetensors"}}'])
def test_broken_checkpoints_are_left_to_vllm(tmp_path: Path, index: bytes) -> None:
    file = evicted(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_bytes(index)
    read_ahead.begin(rank_spec(model=str(tmp_path)))
    assert stays_on_disk(file)


def test_a_model_that_is_nowhere_is_left_to_vllm() -> None:
    read_ahead.begin(rank_spec(model="phalanx/no-such-model"))
