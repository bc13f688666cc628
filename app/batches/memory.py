"""What requests hold in memory, counted: the bodies that are being read or run, and the results that wait to be sent.

A body is refused when there is no room for it. It counts twice while its prompts are copied out of it, for it is there
twice. A result is never refused: it counts, so that others wait.
"""

from collections.abc import Callable

from app.errors import TooLarge, TryLater

MIN_RETRY_S = 1.0


class HeldBytes:
    """The bytes of all requests together, and their bound."""

    def __init__(self, limit: int, seconds_to_free: Callable[[], float]) -> None:
        self._limit = limit
        self._seconds_to_free = seconds_to_free
        self.total = 0

    def open(self) -> "Holding":
        """For one request."""
        return Holding(self)

    def check(self, size: int, own: int) -> None:
        """Whether so many bytes more fit. Raises TryLater, or TooLarge when one's own alone would be too many."""
        if own + size > self._limit:
            raise TooLarge(
                f"the request would hold {own + size} bytes of memory, at most {self._limit} are there for all "
                "(--max-held-bytes): send it in parts",
                code="body_too_large",
            )
        if self.total + size > self._limit:
            retry_after_s = max(MIN_RETRY_S, self._seconds_to_free())
            raise TryLater(
                f"the gateway holds {self.total} bytes of requests and results, and there is no room for {size} more "
                f"(--max-held-bytes {self._limit}): try again in about {retry_after_s:.0f} s",
                status=503,
                code="memory_full",
                retry_after_s=retry_after_s,
            )


class Holding:
    """What one request holds. Close it when its answer has been sent, or will not be."""

    def __init__(self, held: HeldBytes) -> None:
        self._held = held
        self._size = 0
        self._closed = False

    def take(self, size: int) -> None:
        """So many bytes of a body have come, or of what is made of it. Raises TryLater or TooLarge."""
        self._held.check(size, self._size)
        self.add(size)

    def give_back(self, size: int) -> None:
        """So many bytes are let go."""
        self.add(-size)

    def add(self, size: int) -> None:
        """So many bytes of results have come."""
        if not self._closed:
            self._size += size
            self._held.total += size

    def close(self) -> None:
        """It is all let go. May be called twice."""
        self._held.total -= self._size
        self._size = 0
        self._closed = True
