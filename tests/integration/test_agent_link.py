"""What an agent has said reaches its gateway late, or not at all, when the network comes back."""

import asyncio
import selectors
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import zmq

from engines.agent import link as agent_link
from engines.agent.link import GatewayLink
from engines.contract.node_protocol import AgentBeat, decode_from_agent
from engines.host.wire import prepare_listening

DEADLINE_MS = 20_000


@contextmanager
def gateway() -> Iterator[tuple[zmq.Socket[bytes], int]]:
    """A gateway's socket, and its port."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        router = context.socket(zmq.ROUTER)
        prepare_listening(router, None)
        yield router, router.bind_to_random_port("tcp://127.0.0.1")
    finally:
        context.destroy(linger=0)


def carry(one: socket.socket, other: socket.socket) -> None:
    """What either end sends, to the other one, until one of them has closed."""
    with selectors.DefaultSelector() as selector:
        selector.register(one, selectors.EVENT_READ, other)
        selector.register(other, selectors.EVENT_READ, one)
        while True:
            for key, _ in selector.select():
                assert isinstance(key.fileobj, socket.socket)
                if not (part := key.fileobj.recv(65536)):
                    return
                key.data.sendall(part)


@pytest.mark.parametrize("is_welcome", [True, False])
def test_a_gateway_hears_the_last_words_of_an_agent_that_it_had_welcomed_and_nothing_of_a_call_given_up(
    is_welcome: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing gets through before the agent has closed its end."""
    monkeypatch.setattr(agent_link, "LAST_WORDS_MS", DEADLINE_MS)  # however slow the machine is
    agent_context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    async def speak(endpoint: str) -> None:
        link = GatewayLink(agent_context, endpoint, "agent-1.0", None, lambda _: None, lambda _: None)
        link.epoch = 7 if is_welcome else 0
        link.send(AgentBeat())
        link.close()

    with gateway() as (router, port), socket.create_server(("127.0.0.1", 0)) as network:
        asyncio.run(speak(f"tcp://127.0.0.1:{network.getsockname()[1]}"))
        network.settimeout(DEADLINE_MS / 1000 if is_welcome else 1)
        try:
            agent_end, _ = network.accept()
        except TimeoutError:
            assert not is_welcome  # it was closed before it had called
        else:
            with agent_end, socket.create_connection(("127.0.0.1", port)) as gateway_end:
                carry(agent_end, gateway_end)
            agent_context.destroy()  # all that it had to say is on its way
        if is_welcome:
            assert router.poll(DEADLINE_MS)
            assert decode_from_agent(router.recv_multipart()[1]).epoch == 7
        else:
            assert not router.poll(500)
    agent_context.destroy(linger=0)
