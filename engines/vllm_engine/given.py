"""Which attempts the engine has: what happens to it may be their fault."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from engines.rank.engine import EngineLoad


class Given:
    """Attempts by number. One attempt may have several requests with the engine at once."""

    def __init__(self, load: EngineLoad) -> None:
        self._load = load
        self._requests: Counter[int] = Counter()

    def __contains__(self, attempt: int) -> bool:
        return attempt in self._requests

    @contextmanager
    def giving(self, attempt: int) -> Iterator[None]:
        """Inside, the engine has a request of the attempt."""
        if not self._requests:
            self._load.begin()
        self._requests[attempt] += 1
        self._load.given = len(self._requests)
        try:
            yield
        finally:
            self._requests[attempt] -= 1
            if not self._requests[attempt]:
                del self._requests[attempt]
            self._load.given = len(self._requests)
