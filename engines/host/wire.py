"""How a node's processes reach the gateway: ZeroMQ over TCP, encrypted with CURVE where there are keys.

A connection is a life: nothing that was on its way when it broke may be lost silently, so a socket connects once, and
whoever sees its connection break gives up.
"""

import zmq

from engines.contract.node_keys import NodeKeys
from engines.contract.node_protocol import MOST_FRAME_BYTES

HEARTBEAT_MS = 2_000
HEARTBEAT_TIMEOUT_MS = 8_000  # of silence: a peer that is gone without a word is found by then
TCP_TIMEOUT_MS = 10_000  # for what was sent to be acknowledged
# After one of these, nothing more comes or goes. CLOSED: it could not be made.
BROKEN = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


def prepare(socket: "zmq.Socket[bytes]") -> None:
    """What both ends of a connection between machines have in common."""
    socket.set(zmq.LINGER, 0)
    socket.set_hwm(0)  # credit bounds what is on the way; a full buffer must not drop or block
    socket.set(zmq.IPV6, 1)
    socket.set(zmq.MAXMSGSIZE, MOST_FRAME_BYTES)
    socket.set(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.set(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    socket.set(zmq.TCP_MAXRT, TCP_TIMEOUT_MS)


def prepare_dialling(socket: "zmq.Socket[bytes]", identity: str, keys: NodeKeys | None) -> None:
    """A socket that is about to connect to the gateway, under this name."""
    prepare(socket)
    socket.set(zmq.RECONNECT_IVL, -1)
    socket.set(zmq.ROUTING_ID, identity.encode())
    if keys is not None:
        socket.set(zmq.CURVE_SERVERKEY, keys.gateway_public.encode())
        socket.set(zmq.CURVE_PUBLICKEY, keys.node_public.encode())
        socket.set(zmq.CURVE_SECRETKEY, keys.node_secret.encode())


def prepare_listening(socket: "zmq.Socket[bytes]", keys: NodeKeys | None) -> None:
    """The gateway's socket, which all others connect to."""
    prepare(socket)
    socket.set(zmq.ROUTER_MANDATORY, 1)  # whoever is gone is found out by writing to him
    if keys is not None:
        socket.set(zmq.CURVE_SERVER, 1)
        socket.set(zmq.CURVE_SECRETKEY, keys.gateway_secret.encode())


def new_keys() -> NodeKeys:
    """Two fresh key pairs."""
    gateway_public, gateway_secret = zmq.curve_keypair()
    node_public, node_secret = zmq.curve_keypair()
    return NodeKeys(
        gateway_public=gateway_public.decode(),
        gateway_secret=gateway_secret.decode(),
        node_public=node_public.decode(),
        node_secret=node_secret.decode(),
    )
