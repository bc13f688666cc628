"""Where the results of a batch go, one by one as they come: to memory, to a stream, and later to a journal."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.batches.results import Status
from engines.contract.protocol import Result


@dataclass(frozen=True)
class Rest:
    """The results of the items that got none of their own. Each is made when it is read, as JSON.

    `untaken` are all items that no window had reached. In a batch that was begun again some of these may have a result
    from before: whoever keeps those knows.
    """

    taken: Sequence[int]  # indexes of items, in order
    untaken: range
    read: Callable[[int], bytes]

    def __iter__(self) -> Iterator[bytes]:
        yield from map(self.read, self.taken)
        yield from map(self.read, self.untaken)


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

    def put(self, index: int, encoded: bytes, status: Status, result: Result) -> None:
        """An item's result as JSON, and what that was made of. It may come before `open`: a refused item never runs."""

    def close(self, rest: Rest | None) -> None:
        """No more comes. `rest` gives the results of the items that have none."""
