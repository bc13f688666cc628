"""A rank's log on this machine: written by its guardian, and read by whoever wants to know what the rank printed."""

import contextlib
from io import FileIO
from pathlib import Path

LOG_LIMIT_BYTES = 8 * 1024 * 1024


class RankLog:
    """A rank's output in a file, bounded: the older half is in a second file with the suffix ``.1``.

    A disk that is full or gone loses log lines, not the rank; it is tried again with every chunk.
    """

    def __init__(self, path: Path, limit_bytes: int = LOG_LIMIT_BYTES) -> None:
        self._path = path
        self._limit_bytes = limit_bytes
        self._file: FileIO | None = None
        self.write(b"")  # the file is there from the start

    def write(self, chunk: bytes) -> None:
        """Appends."""
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("ab", buffering=0)
            self._file.write(chunk)
            if self._file.tell() > self._limit_bytes:
                self.close()
                self._path.replace(self._path.with_name(self._path.name + ".1"))
        except OSError:
            self.close()

    def close(self) -> None:
        """Until the next chunk."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()


class LogPart:
    """The log of one life of a rank: the file from where its end is now."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._start = path.stat().st_size if path.exists() else 0

    def end(self, size_bytes: int) -> str:
        """As much as that of what was printed last in this life; nothing where it cannot be read."""
        try:
            with Path(self.path).open("rb") as log:
                log.seek(0, 2)
                end = log.tell()
                start = self._start if self._start <= end else 0  # a log that grew too long began anew
                log.seek(max(start, end - size_bytes))
                return log.read(size_bytes).decode("utf-8", "replace")
        except OSError:
            return ""
