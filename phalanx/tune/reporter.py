"""How far a sweep is, for a person, on stderr: the output may be a table or JSON."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status
from rich.text import Text


class Reporter:
    """Says sentences, and on a terminal what is being done just now."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._status: Status | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._status = self._console.status("")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def say(self, sentence: str) -> None:
        """A line that stays."""
        self._console.print(Text(f"phalanx: {sentence}"), highlight=False, soft_wrap=True)

    def stage(self, sentence: str) -> None:
        """What is done now."""
        if self._status is not None:
            self._status.update(Text(sentence))
