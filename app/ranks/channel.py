"""The gateway's side of the queue: one ZeroMQ socket per rank and incarnation. The only module here that knows zmq.

The event loop watches the socket's descriptor, which tells that something may have changed, and not for how long that
holds: whoever has sent something, or has left messages unread, has to look again.
"""

import asyncio
import time
from pathlib import Path
from typing import TypeAlias

import zmq
from zmq.utils.monitor import recv_monitor_message

from app.ranks.hosts.host import OnBroken, OnMessage
from app.ranks.reception import Reception
from engines.contract.protocol import Message, encode
from engines.contract.spec import GatewayAddress

MESSAGES_AT_ONCE = 100  # that are handled in one pass of the event loop
LAST_WORDS_S = 1.0  # that a process which has ended may still be heard: what it said is on its way for a moment
LAST_WORDS_POLL_S = 0.005
ChannelContext: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"


class RankChannel:
    """Sends to one rank, and hands over what it says, until one of the two fails: `on_broken` hears why."""

    def __init__(
        self, context: ChannelContext, path: Path, epoch: int, on_message: OnMessage, on_broken: OnBroken
    ) -> None:
        self.address = GatewayAddress(f"ipc://{path}", epoch=epoch)
        self._path = path
        self._reception = Reception(path.name, epoch, on_message)
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._is_open = True  # neither closed nor broken
        self._is_look_due = False
        self._connections: int | None = None  # that are open; None before the first
        self._monitor: zmq.Socket[bytes] | None = None
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.set_hwm(0)  # credit bounds what is on the way; a full buffer must not drop or block
        try:
            self._monitor = self._socket.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
            self._socket.bind(self.address.endpoint)
        except zmq.ZMQError as error:  # no file descriptor is left, or the folder is gone
            self._close_sockets()
            raise OSError(error.errno, f"{self.address.endpoint}: {error}") from error
        self._descriptor = self._socket.fileno()
        self._loop.add_reader(self._descriptor, self._look)

    def send(self, message: Message) -> None:
        """Hands a message to ZeroMQ, which keeps it until the rank has it; dropped when no rank is connected."""
        if not self._is_open:
            return
        try:
            self._socket.send(encode(message, self.address.epoch), zmq.NOBLOCK)
        except zmq.Again:
            pass  # nobody is connected
        except zmq.ZMQError as error:
            self._loop.call_soon(self._break, f"its socket takes no message: {error}")  # soon: the sender is at work
        self._look_soon()

    async def hear_out(self) -> None:
        """Handles what the rank had said before its process ended; to be called after that.

        Returns when its connection has been read to the end, or after LAST_WORDS_S.
        """
        deadline = time.monotonic() + LAST_WORDS_S
        while not self._has_ended() and time.monotonic() < deadline:  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(LAST_WORDS_POLL_S)
        while self._take_some() and time.monotonic() < deadline:  # noqa: ASYNC110  others have their turn
            await asyncio.sleep(0)

    def close(self) -> None:
        """Closes the socket. May be called twice."""
        if not self._socket.closed:
            self._shut()
            self._close_sockets()
            self._path.unlink(missing_ok=True)

    # -- receiving

    def _look(self) -> None:
        self._is_look_due = False
        if self._take_some():
            self._look_soon()

    def _look_soon(self) -> None:
        if not self._is_look_due:
            self._is_look_due = True
            self._loop.call_soon(self._look)

    def _take_some(self) -> bool:
        """Handles messages that are there. Whether more may be."""
        for _ in range(MESSAGES_AT_ONCE):
            if not self._is_open:
                return False
            try:
                frame = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return False
            except zmq.ZMQError as error:
                self._break(f"its socket gives no message: {error}")
                return False
            trouble = self._reception.take(frame)
            if trouble is not None:
                self._break(trouble)
                return False
        return True

    def _break(self, reason: str) -> None:
        if self._is_open:
            self._shut()
            self._on_broken(reason)

    def _shut(self) -> None:
        self._is_open = False
        self._loop.remove_reader(self._descriptor)

    def _close_sockets(self) -> None:
        self._socket.disable_monitor()
        self._socket.close()
        if self._monitor is not None:
            self._monitor.close()

    def _has_ended(self) -> bool:
        """Whether the rank was connected and is no more: ZeroMQ says so when it has read everything."""
        while self._is_open and self._monitor is not None and self._monitor.poll(0):
            opened = recv_monitor_message(self._monitor)["event"] == zmq.EVENT_ACCEPTED
            self._connections = (self._connections or 0) + (1 if opened else -1)
        return self._connections == 0 or not self._is_open


def new_context() -> ChannelContext:
    """One context for all channels of a gateway."""
    return zmq.Context(io_threads=1)
