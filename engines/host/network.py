"""Which of this machine's addresses and interfaces another machine is reached by."""

import ipaddress
import socket
from collections.abc import Mapping

import psutil

INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
OWN_ADDRESS = "VLLM_HOST_IP"


def own_address_towards(address: str) -> str:
    """The address that this machine has on the route there. Raises OSError where there is no route, or no such name."""
    family, _, _, _, target = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(target)  # sends nothing
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str | None:
    """The interface that has this address; None where none has."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(found.address.partition("%")[0] == address for found in addresses):
            return name
    if ipaddress.ip_address(address).is_loopback:  # all of 127.0.0.0/8 is, and only one address is listed
        return next(
            (name for name, found in psutil.net_if_addrs().items() if any(a.address == "127.0.0.1" for a in found)),
            None,
        )
    return None


def network_variables(environ: Mapping[str, str], master: str) -> dict[str, str]:
    """By which ranks of a lock-step group find one another, but for those that the operator has set. Raises OSError."""
    own = own_address_towards(master)
    found = {OWN_ADDRESS: own} | dict.fromkeys(INTERFACES, interface_of(own) or "")
    return {name: value for name, value in found.items() if value and name not in environ}
