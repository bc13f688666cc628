"""The descriptors that whoever starts a command hands down: too few, or too many."""

import contextlib
import os
import sys
from pathlib import Path

STREAMS = {"stdin": "r", "stdout": "w", "stderr": "w"}  # descriptors 0, 1 and 2
OWN_DESCRIPTORS = Path("/proc/self/fd")


def put_in_order() -> None:
    """Opens the standard streams that are closed, and keeps all other descriptors from this process's children."""
    _open_missing_streams()
    _keep_from_children()


def _open_missing_streams() -> None:
    """Left closed, the next socket or pipe would get the number, and be read or written as if it were the stream."""
    for number, (name, mode) in enumerate(STREAMS.items()):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
            os.set_inheritable(null, True)
            setattr(sys, name, open(null, mode, closefd=False))  # noqa: SIM115  it stays open


def _keep_from_children() -> None:
    """uvloop closes nothing in the processes it starts: a rank would hold a launcher's lock, or its listening port."""
    for entry in OWN_DESCRIPTORS.iterdir():
        if int(entry.name) >= len(STREAMS):
            with contextlib.suppress(OSError):  # the one that lists the folder is closed by now
                os.set_inheritable(int(entry.name), False)
