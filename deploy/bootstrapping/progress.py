"""What the user reads: progress on the standard output, at once; what went wrong on the standard error."""

import sys


def say(line: str) -> None:
    """A line of progress."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def complain(*lines: str) -> None:
    """What went wrong."""
    sys.stderr.write("".join(f"{line}\n" for line in lines))
