"""An agent's connection to its gateway: one socket, for one life of both."""

import asyncio
from collections.abc import Callable

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from engines.contract.node_keys import NodeKeys
from engines.contract.node_protocol import NodeMessage, ToAgent, decode_to_agent, encode_node
from engines.host.wire import BROKEN, prepare_dialling

LAST_WORDS_MS = 500  # for what was said last to be on its way
MESSAGES_AT_ONCE = 100


class GatewayLink:
    """`on_message` hears what the gateway says, and `on_broken` that it can say nothing any more."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        endpoint: str,
        identity: str,
        keys: NodeKeys | None,
        on_message: Callable[[ToAgent], None],
        on_broken: Callable[[str], None],
    ) -> None:
        self.epoch = 0  # of the gateway, once it has welcomed the agent
        self._on_message = on_message
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._is_look_due = False
        self._is_open = True
        self._socket = context.socket(zmq.DEALER)
        prepare_dialling(self._socket, identity, keys)
        self._monitor = self._socket.get_monitor_socket(BROKEN)
        self._descriptors = {self._socket.fileno(): self._look, self._monitor.fileno(): self._look_at_events}
        for descriptor, react in self._descriptors.items():
            self._loop.add_reader(descriptor, react)
        self._socket.connect(endpoint)
        self._loop.call_soon(self._look_at_events)  # its descriptor tells of nothing before the first look

    def send(self, message: NodeMessage) -> None:
        """Dropped when the connection is broken."""
        if not self._is_open:
            return
        message.epoch = self.epoch
        try:
            self._socket.send(encode_node(message), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            self._break(f"its socket takes no message: {error}")
        self._look_soon()

    def close(self) -> None:
        """May be called twice."""
        self._is_open = False
        if not self._socket.closed:
            for descriptor in self._descriptors:
                self._loop.remove_reader(descriptor)
            self._socket.disable_monitor()
            # A gateway that has not answered in time is not to hear of a life that is over: it would take it for one
            # that begins, and start ranks.
            self._socket.close(linger=LAST_WORDS_MS if self.epoch else 0)
            self._monitor.close()

    def _look(self) -> None:
        self._is_look_due = False
        for _ in range(MESSAGES_AT_ONCE):
            if not self._is_open:
                return
            try:
                frame = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message = decode_to_agent(frame)
            except msgspec.DecodeError as error:
                self._break(f"it sent what is no message of this protocol: {error}")
                return
            self._on_message(message)
        self._look_soon()

    def _look_soon(self) -> None:
        if not self._is_look_due and self._is_open:
            self._is_look_due = True
            self._loop.call_soon(self._look)

    def _look_at_events(self) -> None:
        self._look()  # what was said before the end
        while self._is_open and self._monitor.poll(0):
            event = zmq.Event(recv_monitor_message(self._monitor)["event"])
            self._break(str(event.name).lower().replace("_", " "))

    def _break(self, reason: str) -> None:
        if self._is_open:
            self._is_open = False
            self._on_broken(reason)
