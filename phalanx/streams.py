"""Standard input, output and error, which whoever starts a command may have closed."""

import os
import sys

MODES = {"stdin": "r", "stdout": "w", "stderr": "w"}  # by descriptor: 0, 1, 2


def open_missing() -> None:
    """Opens /dev/null in place of those that are closed, for this process and its children.

    Left closed, the next socket or pipe would get the number, and be read or written as if it were the stream.
    """
    for number, (name, mode) in enumerate(MODES.items()):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
            os.set_inheritable(null, True)
            setattr(sys, name, open(null, mode, closefd=False))  # noqa: SIM115  a descriptor, and it stays open
