"""Ports of this machine that nobody listens on."""

import random
import socket

LOOPBACK = "127.0.0.1"
PORT_RANGE = (20000, 32000)  # below the kernel's ephemeral ports, which clients use up
TRIES = 200


class NoFreePorts(OSError):
    """A lock-step group has no ports to meet at. They may come free."""


def free_port_run(length: int) -> int:
    """The first of `length` consecutive ports. Raises NoFreePorts."""
    for _ in range(TRIES):
        first = random.randrange(*PORT_RANGE)  # noqa: S311  not a secret
        if all(_is_free(first + offset) for offset in range(length)):
            return first
    first, end = PORT_RANGE
    raise NoFreePorts(f"no {length} consecutive ports from {first} to {end} are free: stop what listens on them")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
