"""Where the results of a batch go, one by one as they come: to memory, and later to a journal or a stream."""

from collections.abc import Callable
from typing import Protocol

Rest = Callable[[int], bytes]  # the JSON of the result that an item has because it got none of its own


class Brake(Protocol):
    """Holds a batch back whose results nobody takes. What runs is finished; nothing more of it is dispatched."""

    def hold(self) -> None:
        """Until `release`. May be called twice."""

    def release(self) -> None:
        """It goes on. Does nothing to a batch that is not held back."""


class ResultSink(Protocol):
    """Takes each result once. `put` and `close` are called on the event loop, and must not block."""

    def open(self, brake: Brake) -> None:
        """The batch begins to run; a sink that is full holds it back."""

    def put(self, index: int, result: bytes) -> None:
        """The JSON of an item's result. It may come before `open`: an item that was refused never runs."""

    def close(self, rest: Rest | None) -> None:
        """No more comes. `rest` gives the results of the items that have none."""
