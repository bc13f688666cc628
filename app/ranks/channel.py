"""The gateway's side of the queue: one ZeroMQ socket per rank and incarnation. The only module here that knows zmq."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import msgspec
import zmq
import zmq.asyncio

from app.logs import get_logger
from engines.contract.protocol import FromRank, Message, decode_from_rank, encode
from engines.failures import kind

logger = get_logger("ranks")
OnMessage = Callable[[FromRank], None]
OnBroken = Callable[[str], None]
ChannelContext: TypeAlias = zmq.asyncio.Context


class RankChannel:
    """Sends to one rank, and hands over what it says."""

    def __init__(self, context: ChannelContext, path: Path, on_message: OnMessage, on_broken: OnBroken) -> None:
        self.endpoint = f"ipc://{path}"
        self._path = path
        self._on_message = on_message
        self._on_broken = on_broken
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.set_hwm(0)  # credit bounds what is on the way; a full buffer must not drop or block
        try:
            self._socket.bind(self.endpoint)
        except zmq.ZMQError as error:  # no file descriptor is left, or the folder is gone
            self._socket.close()
            raise OSError(error.errno, f"{self.endpoint}: {error}") from error
        self._receiver = asyncio.create_task(self._receive(), name=f"receive {path.name}")

    def send(self, message: Message) -> None:
        """Hands a message to ZeroMQ, which keeps it until the rank has it; dropped when no rank is connected."""
        sent = asyncio.ensure_future(self._socket.send(encode(message), zmq.NOBLOCK))
        if sent.done() and isinstance(sent.exception(), zmq.Again):
            return
        sent.add_done_callback(asyncio.Future.result)  # anything else is a fault of ours, and is said

    async def close(self) -> None:
        """Closes the socket. May be called twice."""
        self._receiver.cancel()
        try:
            await asyncio.gather(self._receiver, return_exceptions=True)
        finally:
            self._socket.close()
            self._path.unlink(missing_ok=True)

    async def _receive(self) -> None:
        while True:
            frame = await self._socket.recv()
            try:
                message = decode_from_rank(frame)
            except msgspec.DecodeError as error:
                self._on_broken(f"it sent what is no message of this protocol: {error}")
                return
            try:
                self._on_message(message)
            except Exception as error:
                # The edge. A receiver that ended without a word would leave the rank's items waiting for ever.
                logger.exception("message_failed", channel=self._path.name, message=type(message).__name__)
                self._on_broken(f"the gateway failed on its message: {kind(error, with_message=False)}")
                return


def new_context() -> ChannelContext:
    """One context for all channels of a gateway."""
    return ChannelContext(io_threads=1)
