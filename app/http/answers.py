"""How an answer goes over the wire, where uvicorn would do it otherwise."""

import asyncio
from collections.abc import Callable


class AnswerTransport(asyncio.Transport):
    """A connection as uvicorn's cycle of one request and its answer uses it; its end is the protocol's to decide."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        super().__init__()
        self._transport = transport
        self._close = close

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sends it."""
        self._transport.write(data)

    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._transport.is_closing()

    def close(self) -> None:
        """There is no other answer after this one."""
        self._close()
