"""Results on disk as they come, in the order in which they were done, and where each row's result lies.

Append-only JSON lines, brought to the disk every second. After a kill the last line may be half written, and after a
loss of power more than that: everything from the first line on that is not whole is cut off, and the service is asked
for it again. Memory is 8 bytes a row: the offset of the row's line.
"""

import fcntl
import os
import time
from array import array
from pathlib import Path

import msgspec

from phalanx.generate.errors import UsageProblem

SYNC_EVERY_S = 1.0


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """A row's result. There are several texts with `n`, each with its reason to end, and none where it failed."""

    batch: int  # which of the job's batches it came from
    seq: int
    row: int  # its number, from 1
    status: str
    texts: list[str]
    finish_reasons: list[str | None]
    prompt_tokens: int
    completion_tokens: int
    code: str | None = None
    error: str | None = None


class Totals(msgspec.Struct):
    """Sums over what is in the spool."""

    results: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, entry: Entry) -> None:
        """Counts a result."""
        self.results += 1
        self.failed += entry.status != "ok"
        self.prompt_tokens += entry.prompt_tokens
        self.completion_tokens += entry.completion_tokens


_decode = msgspec.json.Decoder(Entry).decode
_encode = msgspec.json.Encoder().encode


class Spool:
    """The spool of one job. It is held against other commands: raises UsageProblem when one holds it.

    `last_seq` is that of the batch whose results are being appended.
    """

    def __init__(self, path: Path) -> None:
        self.totals = Totals()
        self.last_seq = 0
        self._size = 0
        self._offsets = array("Q")  # by row: offset + 1, or 0
        self._file = path.open("a+b")
        if not self._is_ours(path):
            self._file.close()
            raise UsageProblem(f"another `phalanx generate` is at work on {path}: wait for it, or end it")
        self._synced_at = time.monotonic()

    def clear(self) -> None:
        """Nothing of a former job counts."""
        self._file.truncate(0)

    def recover(self, batch: int) -> None:
        """Takes up what is there. `batch` is the current one's number."""
        self._file.seek(0)
        for line in self._file:
            entry = _whole(line)
            if entry is None:
                break
            if entry.batch == batch:
                self.last_seq = max(self.last_seq, entry.seq)
            self._note(entry, len(line))
        self._file.truncate(self._size)

    def append(self, entry: Entry) -> bool:
        """Keeps a result. The first for a row counts: whether it was that."""
        self.last_seq = max(self.last_seq, entry.seq)
        if self.has(entry.row):
            return False
        line = _encode(entry) + b"\n"
        self._file.write(line)
        self._file.flush()  # a killed command loses nothing
        self._note(entry, len(line))
        if time.monotonic() - self._synced_at > SYNC_EVERY_S:
            self.sync()
        return True

    def has(self, row: int) -> bool:
        """Whether the row has a result."""
        return row <= len(self._offsets) and self._offsets[row - 1] != 0

    def read(self, row: int) -> Entry | None:
        """The row's result. Nothing may be appended afterwards."""
        if not self.has(row):
            return None
        self._file.seek(self._offsets[row - 1] - 1)
        return _decode(self._file.readline())

    def sync(self) -> None:
        """Brings what was appended to the disk."""
        self._file.flush()
        os.fdatasync(self._file.fileno())
        self._synced_at = time.monotonic()

    def close(self) -> None:
        """Lets go of it. May be called twice."""
        self._file.close()

    def _is_ours(self, path: Path) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        try:  # a command that ended just now has removed what was opened here
            return path.samefile(f"/proc/self/fd/{self._file.fileno()}")
        except FileNotFoundError:
            return False

    def _note(self, entry: Entry, length: int) -> None:
        missing = entry.row - len(self._offsets)
        if missing > 0:
            self._offsets.frombytes(bytes(missing * self._offsets.itemsize))
        self._offsets[entry.row - 1] = self._size + 1
        self._size += length
        self.totals.add(entry)


def _whole(line: bytes) -> Entry | None:
    try:
        return _decode(line) if line.endswith(b"\n") else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
