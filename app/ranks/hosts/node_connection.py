"""What the gateway and a rank on another node say to each other, through the port that all nodes share."""

import asyncio
import time

from app.ranks.hosts.host import OnBroken, OnMessage
from app.ranks.node_port import NodePort
from app.ranks.reception import Reception
from engines.contract.protocol import Message, encode
from engines.contract.spec import GatewayAddress

LAST_WORDS_S = 1.0
LAST_WORDS_POLL_S = 0.005
PROBE = b""  # to a process that has ended, to see whether its connection has


class NodeConnection:
    """A Connection. The rank is known by a name that no other life of it has."""

    def __init__(
        self,
        port: NodePort,
        endpoint: str,
        epoch: int,
        rank: int,
        incarnation: int,
        on_message: OnMessage,
        on_broken: OnBroken,
    ) -> None:
        identity = f"rank-{rank}.{incarnation}.{epoch:x}"
        self.address = GatewayAddress(endpoint, identity, epoch)
        self._port = port
        self._name = identity.encode()
        self._reception = Reception(identity, epoch, on_message)
        self._on_broken = on_broken
        self._is_open = True
        port.listen(self._name, self._take)

    def send(self, message: Message) -> None:
        """Dropped when the rank is not connected."""
        if self._is_open:
            self._port.send(self._name, encode(message, self.address.epoch))

    async def hear_out(self) -> None:
        """Returns when its connection has been read to the end, or after LAST_WORDS_S."""
        deadline = time.monotonic() + LAST_WORDS_S
        while self._port.send(self._name, PROBE) and time.monotonic() < deadline:  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(LAST_WORDS_POLL_S)

    def close(self) -> None:
        """May be called twice."""
        self._is_open = False
        self._port.forget(self._name)

    def _take(self, frame: bytes) -> None:
        trouble = self._reception.take(frame) if self._is_open else None
        if trouble is not None:
            self.close()
            self._on_broken(trouble)
