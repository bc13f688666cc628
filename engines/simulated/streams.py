"""What is sent of a stream: no more than its window allows.

The events of a step are made when there is room for them, so a client that takes nothing costs no memory: its tokens
go on being made, as in an engine that does not wait for anyone, and are told when they are taken.
"""

from collections import deque
from collections.abc import Iterator

from engines.contract.exchanges import STREAM_WINDOW_BYTES, AnswerHead
from engines.contract.protocol import Chunk
from engines.rank.engine import Emit


class Stream:
    """The stream of one exchange."""

    def __init__(self, attempt: int, head: AnswerHead, events: Iterator[list[bytes]], emit: Emit) -> None:
        self._attempt = attempt
        self._head: AnswerHead | None = head
        self._events = events
        self._emit = emit
        self._untold_steps = 0  # that have been made
        self._kept: deque[bytes] = deque()  # events of the step that is being told
        self._untaken_bytes = 0
        self.chunks = 0

    @property
    def is_told(self) -> bool:
        """Whether everything that has been made has been sent."""
        return not self._kept and not self._untold_steps

    def step(self) -> None:
        """One more token has been made of each text."""
        self._untold_steps += 1
        self._send()

    def taken(self, size: int) -> None:
        """The client has taken so many bytes more."""
        self._untaken_bytes = max(0, self._untaken_bytes - size)
        self._send()

    def _send(self) -> None:
        body = bytearray()
        while self._next_fits(STREAM_WINDOW_BYTES - self._untaken_bytes - len(body)):
            body += self._kept.popleft()
        if body:
            self._untaken_bytes += len(body)
            self.chunks += 1
            self._emit(Chunk(self._attempt, bytes(body), self._head))
            self._head = None

    def _next_fits(self, room: int) -> bool:
        """Whether there is another event, and room for it."""
        while not self._kept and self._untold_steps:
            self._untold_steps -= 1
            self._kept.extend(next(self._events))
        return bool(self._kept) and len(self._kept[0]) <= room
