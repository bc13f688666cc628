"""A file without a name, for what waits to be read: it is gone with its process, however that ends."""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast


class SpoolClosed(Exception):
    """The file was closed before it could be read."""


class SpoolFile:
    """Made with the first write. `write` and `read` block, and are for threads; `close` is for anybody at any time:
    a thread that is at it goes on, and the file is closed behind it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()  # held by who reads or writes
        self._file: BinaryIO | None = None
        self._is_closed = False

    def write(self, data: bytes, offset: int) -> None:
        """Writes it all; nothing once it is closed. Raises OSError, and may be called again for the same place then."""
        with self._busy():
            if self._is_closed:
                return
            if self._file is None:
                unbuffered = tempfile.TemporaryFile(dir=self._folder, prefix="phalanx-", buffering=0)  # noqa: SIM115  it stays open
                self._file = cast("BinaryIO", unbuffered)
            left = memoryview(data)
            while left:
                size = os.pwrite(self._file.fileno(), left, offset)
                left, offset = left[size:], offset + size

    def read(self, size: int, offset: int) -> bytes:
        """What was written there. Raises OSError, and SpoolClosed once it is closed."""
        with self._busy():
            if self._is_closed or self._file is None:
                raise SpoolClosed
            found = bytearray()
            while len(found) < size:
                piece = os.pread(self._file.fileno(), size - len(found), offset + len(found))
                if not piece:
                    raise OSError(f"the spool file ends after {offset + len(found)} bytes")
                found += piece
            return bytes(found)

    def close(self) -> None:
        """What it holds is not wanted any more. May be called twice."""
        self._is_closed = True
        self._drop()

    @contextmanager
    def _busy(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        finally:
            if self._is_closed:
                self._drop()

    def _drop(self) -> None:
        """Unless somebody is at it, who does it afterwards."""
        if self._lock.acquire(blocking=False):
            try:
                if self._file is not None:
                    self._file.close()
                    self._file = None
            finally:
                self._lock.release()
