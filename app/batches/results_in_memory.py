"""The results of a batch that is answered at once: kept until the answer is sent."""

from app.batches.memory import Holding
from app.batches.results import Status
from app.batches.sink import Brake, Rest
from engines.contract.protocol import Result


class ResultsInMemory:
    """A ResultSink. Its bytes count for `holding`, which may be larger than it is allowed to be: others wait then."""

    def __init__(self, size: int, holding: Holding) -> None:
        self._results: list[bytes | None] = [None] * size
        self._holding = holding
        self._rest: Rest | None = None

    def __len__(self) -> int:
        return len(self._results)

    def open(self, brake: Brake) -> None:
        """Nothing holds it back: a result is never refused."""

    def put(self, index: int, encoded: bytes, status: Status, result: Result) -> None:
        """Keeps it."""
        self._results[index] = encoded
        self._holding.add(len(encoded))

    def close(self, rest: Rest | None) -> None:
        """What has no result yet has what `rest` says: made when it is read, for a client that has gone reads none."""
        self._rest = rest

    def read(self, index: int) -> bytes:
        """The JSON of one result, as often as it is asked for. Raises LookupError before there is one."""
        known = self._results[index]
        if known is not None:
            return known
        if self._rest is None:
            raise LookupError(f"item {index} has no result yet")
        return self._rest.read(index)

    def release(self) -> None:
        """Forgets everything: the answer has been sent, or will not be. May be called twice."""
        self._results.clear()
        self._holding.close()
