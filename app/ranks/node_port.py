"""The gateway's one TCP port for other nodes: their agents and their ranks all connect to it.

Who is connected is known by name only; a frame is handed to whoever has asked for that name, and everything else to the
one who lets agents in.
"""

import asyncio
from collections.abc import Callable

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

from app.logs import get_logger
from engines.contract.node_keys import NodeKeys
from engines.host.wire import prepare_listening

logger = get_logger("nodes")
FRAMES_AT_ONCE = 100  # that are handled in one pass of the event loop
REFUSALS = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
OnFrame = Callable[[bytes], None]
OnStranger = Callable[[bytes, bytes], None]  # name, frame


class NodePort:
    """Listens once it is bound. `on_stranger` hears what comes under names that nobody has asked for; `on_broken`, that
    the socket itself has failed."""

    def __init__(self, keys: NodeKeys | None, on_stranger: OnStranger, on_broken: Callable[[str], None]) -> None:
        self.endpoint = ""  # where others reach it, once it is bound
        self.refused = 0  # peers that could not prove to be ours
        self._keys = keys
        self._on_stranger = on_stranger
        self._on_broken = on_broken
        self._listeners: dict[bytes, OnFrame] = {}
        self._is_look_due = False
        self._loop = asyncio.get_running_loop()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._authenticator: ThreadAuthenticator | None = None
        if keys is not None:
            self._authenticator = ThreadAuthenticator(self._context)
            self._authenticator.start()
            self._authenticator.configure_curve_callback("*", _KnownKey(keys))
        self._socket = self._context.socket(zmq.ROUTER)
        prepare_listening(self._socket, keys)
        self._monitor = self._socket.get_monitor_socket(REFUSALS)
        self._descriptors: dict[int, Callable[[], None]] = {}

    def bind(self, endpoint: str) -> None:
        """From now on others may connect; to any free port if that is 0. Raises OSError."""
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self._shut()
            raise OSError(error.errno, f"{endpoint}: {error}") from error
        self.endpoint = self._socket.get_string(zmq.LAST_ENDPOINT) if endpoint.endswith(":0") else endpoint
        self._descriptors = {self._socket.fileno(): self._look, self._monitor.fileno(): self._count_refusals}
        for descriptor, react in self._descriptors.items():
            self._loop.add_reader(descriptor, react)
            self._loop.call_soon(react)  # a descriptor tells of nothing before the first look

    def listen(self, name: bytes, on_frame: OnFrame) -> None:
        """From now on, what comes under this name is handed over."""
        self._listeners[name] = on_frame

    def forget(self, name: bytes) -> None:
        """The opposite. May be called twice."""
        self._listeners.pop(name, None)

    def send(self, name: bytes, frame: bytes) -> bool:
        """Hands a frame to ZeroMQ, which keeps it until the peer has it. False when nobody of that name is connected:
        by then all that he said has been handed over."""
        if self._socket.closed:
            return False
        try:
            self._socket.send_multipart((name, frame), zmq.NOBLOCK, copy=False)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                self._loop.call_soon(self._on_broken, f"the port for nodes takes no message: {error}")
            return False
        finally:
            self._look_soon()
        return True

    def close(self) -> None:
        """May be called twice."""
        if not self._socket.closed:
            for descriptor in self._descriptors:
                self._loop.remove_reader(descriptor)
            self._shut()

    def _shut(self) -> None:
        self._socket.disable_monitor()
        self._socket.close()
        self._monitor.close()
        if self._authenticator is not None:
            self._authenticator.stop()
        self._context.destroy(linger=0)

    def _look(self) -> None:
        self._is_look_due = False
        for _ in range(FRAMES_AT_ONCE):
            if self._socket.closed:
                return
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            except zmq.ZMQError as error:
                self._on_broken(f"the port for nodes gives no message: {error}")
                return
            self._hand_over(parts)
        self._look_soon()

    def _look_soon(self) -> None:
        """The descriptor tells that something may have changed: whoever has sent, or has left frames, looks again."""
        if not self._is_look_due:
            self._is_look_due = True
            self._loop.call_soon(self._look)

    def _hand_over(self, parts: list[bytes]) -> None:
        name, *frames = parts
        if len(frames) != 1:
            return  # nobody of ours
        listener = self._listeners.get(name)
        if listener is not None:
            listener(frames[0])
        else:
            self._on_stranger(name, frames[0])

    def _count_refusals(self) -> None:
        while not self._monitor.closed and self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)
            if event["event"] & REFUSALS:
                self.refused += 1
                logger.warning("peer_refused", endpoint=self.endpoint, refused=self.refused)


class _KnownKey:
    """The one key that other nodes prove to have."""

    def __init__(self, keys: NodeKeys) -> None:
        self._key = keys.node_public.encode()

    def callback(self, domain: str, key: bytes) -> bool:
        """As ThreadAuthenticator asks for it."""
        return key == self._key
