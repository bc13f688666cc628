"""Changes of the file of API keys: several at once, halfway ended, and seen from outside."""

import fcntl
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.keys import store
from app.keys.store import KeysFile, KeysFileError


@pytest.fixture
def file(tmp_path: Path) -> KeysFile:
    return KeysFile(tmp_path / "keys.json")


def test_changes_at_the_same_time_are_all_there(file: KeysFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """And whoever reads meanwhile finds a whole file."""
    monkeypatch.setattr(store, "LOCK_TIMEOUT_S", 120.0)  # each of them writes twice to the disk
    file.create("first")
    ended = threading.Event()
    lengths: list[int] = []

    def look() -> None:
        while not ended.is_set():
            lengths.append(len(file.read().keys))

    reader = threading.Thread(target=look, name="reader")
    reader.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: KeysFile(file.path).create(f"key {number}"), range(40)))
    finally:
        ended.set()
        reader.join()
    assert {key.name for key in file.read().keys} == {"first", *(f"key {number}" for number in range(40))}
    assert lengths == sorted(lengths)
    assert sorted(path.name for path in file.path.parent.iterdir()) == [".keys.json.lock", "keys.json"]


def test_a_lock_that_nobody_gives_back_is_not_waited_for_for_ever(
    file: KeysFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.create("one")
    monkeypatch.setattr(store, "LOCK_TIMEOUT_S", 0.0)
    with file.path.with_name(".keys.json.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(KeysFileError, match="locked by another command"):
            file.create("two")
    file.create("two")


def test_a_change_that_fails_halfway_changes_nothing(file: KeysFile, monkeypatch: pytest.MonkeyPatch) -> None:
    file.create("one")
    before = file.path.read_bytes()

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(KeysFileError, match="No space left on device"):
        file.create("two")
    assert file.path.read_bytes() == before
    assert sorted(path.name for path in file.path.parent.iterdir()) == [".keys.json.lock", "keys.json"]


def test_a_change_is_seen_in_the_fingerprint(file: KeysFile) -> None:
    file.create("one")
    seen = file.read().fingerprint
    assert file.fingerprint() == seen
    file.create("two")
    assert file.fingerprint() != seen
    seen = file.fingerprint()
    file.path.chmod(0o640)
    assert file.fingerprint() != seen
