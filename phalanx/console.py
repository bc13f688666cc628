"""Where tables go: the terminal, or a pipe, which is told no width and gets a wide one."""

from rich.console import Console

PIPED_WIDTH = 200  # columns


def make_console() -> Console:
    """Writes to stdout."""
    console = Console()
    return console if console.is_terminal else Console(width=PIPED_WIDTH)
