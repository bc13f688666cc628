"""Where the results of a batch go, one by one as they come: to memory, to a stream, and later to a journal."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Rest:
    """The results of the items that got none of their own. Each is made when it is read, as JSON."""

    is_open: bytes | bytearray  # 1 for each of these items, by index
    read: Callable[[int], bytes]

    def __iter__(self) -> Iterator[bytes]:
        index = self.is_open.find(1)
        while index >= 0:
            yield self.read(index)
            index = self.is_open.find(1, index + 1)


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
